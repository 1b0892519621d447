"""A model → results/{run}/{seed}/samples.h5ad and traversals.h5ad."""


rule generate_samples:
    input:
        data=prepared_of,
        weights="results/{run}/{seed}/model.safetensors",
        card="results/{run}/{seed}/model.json",
    output:
        samples="results/{run}/{seed}/samples.h5ad",
        traversals="results/{run}/{seed}/traversals.h5ad",
    log:
        "logs/generate_samples/{run}.{seed}.log",
    benchmark:
        "benchmarks/generate_samples/{run}.{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: run_of(wildcards).training.threads
    resources:
        mem_mb=8000,
        runtime=60,
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
            --settings {params.settings:q} \
            >{log:q} 2>&1
        """
