"""Prepared data and a model → results/{run}/{seed}/embedded.h5ad."""


rule embed_data:
    input:
        data=prepared_of,
        store=lambda wildcards: stored_of(run_of(wildcards).dataset),
        weights="results/{run}/{seed}/model.safetensors",
        card="results/{run}/{seed}/model.json",
    output:
        "results/{run}/{seed}/embedded.h5ad",
    log:
        "logs/embed_data/{run}.{seed}.log",
    benchmark:
        "benchmarks/embed_data/{run}.{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: run_of(wildcards).training.threads
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
    params:
        settings=lambda wildcards: run_of(wildcards).embedding.model_dump_json(),
        store=lambda wildcards, input: ["--store", *input.store] if input.store else [],
    shell:
        """
        python -m nvae_bio embed \
            --data {input.data:q} \
            --weights {input.weights:q} \
            --card {input.card:q} \
            --output {output:q} \
            {params.store:q} \
            --settings {params.settings:q} \
            >{log:q} 2>&1
        """
