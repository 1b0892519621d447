"""resources/prepared/{dataset}.h5ad → results/{run}/{seed}/model.safetensors, model.json and history.parquet."""


rule train_model:
    input:
        prepared_of,
    output:
        weights="results/{run}/{seed}/model.safetensors",
        card="results/{run}/{seed}/model.json",
        history="results/{run}/{seed}/history.parquet",
    log:
        "logs/train_model/{run}.{seed}.log",
    benchmark:
        "benchmarks/train_model/{run}.{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: run_of(wildcards).training.n_threads
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=lambda wildcards: int(run_of(wildcards).training.device == "cuda"),
    params:
        settings=lambda wildcards: run_of(wildcards).fit.model_dump_json(),
    shell:
        """
        python -m nvae_bio train \
            --data {input:q} \
            --weights {output.weights:q} \
            --card {output.card:q} \
            --history {output.history:q} \
            --settings {params.settings:q} \
            --seed {wildcards.seed} \
            >{log:q} 2>&1
        """
