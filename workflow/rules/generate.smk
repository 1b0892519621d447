"""A model → samples, traversals, interpolations and swaps of results/{run}/{seed}/."""


rule generate_samples:
    input:
        data=prepared_of,
        weights="results/{run}/{seed}/model.safetensors",
        card="results/{run}/{seed}/model.json",
    output:
        samples="results/{run}/{seed}/samples.h5ad",
        traversals="results/{run}/{seed}/traversals.h5ad",
        interpolations="results/{run}/{seed}/interpolations.h5ad",
    log:
        "logs/generate_samples/{run}.{seed}.log",
    benchmark:
        "benchmarks/generate_samples/{run}.{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: run_of(wildcards).training.threads
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
    params:
        settings=lambda wildcards: run_of(wildcards).generation.model_dump_json(),
    shell:
        """
        python -m nvae_bio generate \
            --data {input.data:q} \
            --weights {input.weights:q} \
            --card {input.card:q} \
            --samples {output.samples:q} \
            --traversals {output.traversals:q} \
            --interpolations {output.interpolations:q} \
            --settings {params.settings:q} \
            >{log:q} 2>&1
        """


# samples as every class; a model without a label has none
rule swap_classes:
    input:
        data=prepared_of,
        weights="results/{run}/{seed}/model.safetensors",
        card="results/{run}/{seed}/model.json",
    output:
        "results/{run}/{seed}/swaps.h5ad",
    log:
        "logs/swap_classes/{run}.{seed}.log",
    benchmark:
        "benchmarks/swap_classes/{run}.{seed}.tsv"
    wildcard_constraints:
        run=any_of(LABELLED_RUNS),
    conda:
        "../../environment.yml"
    threads: lambda wildcards: run_of(wildcards).training.threads
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
    params:
        settings=lambda wildcards: run_of(wildcards).generation.model_dump_json(),
    shell:
        """
        python -m nvae_bio generate \
            --data {input.data:q} \
            --weights {input.weights:q} \
            --card {input.card:q} \
            --swaps {output:q} \
            --settings {params.settings:q} \
            >{log:q} 2>&1
        """
