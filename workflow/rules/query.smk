"""A model and new samples → results/{run}/{seed}/queries/{query}.h5ad."""


rule map_query:
    input:
        data=prepared_of,
        weights="results/{run}/{seed}/model.safetensors",
        card="results/{run}/{seed}/model.json",
        query=lambda wildcards: query_of(wildcards).path_list,
    output:
        "results/{run}/{seed}/queries/{query}.h5ad",
    log:
        "logs/map_query/{run}.{seed}.{query}.log",
    benchmark:
        "benchmarks/map_query/{run}.{seed}.{query}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: run_of(wildcards).training.threads
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
    params:
        settings=lambda wildcards: query_of(wildcards).model_dump_json(),
    shell:
        """
        python -m nvae_bio query \
            --data {input.data:q} \
            --weights {input.weights:q} \
            --card {input.card:q} \
            --output {output:q} \
            --settings {params.settings:q} \
            >{log:q} 2>&1
        """
