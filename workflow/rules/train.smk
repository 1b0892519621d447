"""resources/prepared/{dataset}.h5ad → results/{run}/{seed}/model.safetensors, model.json and history.parquet."""

TRAIN = """
OMP_NUM_THREADS={threads} python -m nvae_bio train \\
    --data {input:q} \\
    {params.models:q} \\
    --checkpoint resources/checkpoints/{params.place:q} \\
    --settings {params.settings:q} \\
    >{log:q} 2>&1
"""


# one seed a job
rule train_model:
    input:
        prepared_of,
    output:
        weights=["results/{run}/{seed}/model.safetensors"],
        card=["results/{run}/{seed}/model.json"],
        history=["results/{run}/{seed}/history.parquet"],
    log:
        "logs/train_model/{run}.{seed}.log",
    benchmark:
        "benchmarks/train_model/{run}.{seed}.tsv"
    wildcard_constraints:
        run=any_of(SINGLE_RUNS),
    conda:
        "../../environment.yml"
    threads: lambda wildcards: threads_of(wildcards.run)
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=lambda wildcards: int(run_of(wildcards).training.device == "cuda"),
    params:
        models=model_options,
        place=lambda wildcards: f"{wildcards.run}/{wildcards.seed}",
        settings=lambda wildcards: run_of(wildcards).fit.model_dump_json(),
    shell:
        TRAIN


# all seeds of a run side by side: a rule a run, for it has as many outputs as the run has seeds
for stacked in STACKED_RUNS:

    rule:
        name:
            f"train_seeds_{stacked}"
        input:
            f"resources/prepared/{settings.runs[stacked].dataset}.h5ad",
        output:
            weights=files_of_seeds(stacked, "model.safetensors"),
            card=files_of_seeds(stacked, "model.json"),
            history=files_of_seeds(stacked, "history.parquet"),
        log:
            f"logs/train_seeds/{stacked}.log",
        benchmark:
            f"benchmarks/train_seeds/{stacked}.tsv"
        conda:
            "../../environment.yml"
        threads: threads_of(stacked)
        resources:
            mem_mb=8000,
            runtime=480,
            gpu=int(settings.runs[stacked].training.device == "cuda"),
        params:
            models=model_options,
            place=f"{stacked}/seeds",
            settings=lambda wildcards, run=stacked: settings.runs[
                run
            ].fit.model_dump_json(),
        shell:
            TRAIN
