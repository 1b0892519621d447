"""Prepared data, or their store → results/{run}/{seed}/model.safetensors, model.json and history.parquet."""

TRAIN = """
OMP_NUM_THREADS={threads} ${{nvae_bio_launch:-python}} -m nvae_bio train \\
    --data {input:q} \\
    {params.models:q} \\
    --checkpoint resources/checkpoints/{params.place:q} \\
    --settings {params.settings:q} \\
    >{log:q} 2>&1
"""

# before it: what starts several processes, in place of one Python
LAUNCH = """
if [ {resources.mpi} = srun ]; then
    nvae_bio_launch="srun --nodes={resources.nodes} --ntasks={resources.tasks} --kill-on-bad-exit=1 python"
else
    nvae_bio_launch="{resources.mpi} --standalone --nproc-per-node={resources.tasks}"
fi
"""


# one seed a job
rule train_model:
    input:
        lambda wildcards: trained_on(run_of(wildcards).dataset),
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
        mem_mb=more_each_try(8000),
        runtime=more_each_try(240),
        gpu=lambda wildcards: int(run_of(wildcards).training.device == "cuda"),
    params:
        models=model_options,
        place=lambda wildcards: f"{wildcards.run}/{wildcards.seed}",
        settings=lambda wildcards: run_of(wildcards).fit.model_dump_json(),
    shell:
        TRAIN


# one seed a job, in several processes: on this machine, or where a profile sets `mpi: srun` on as many nodes as it says
rule train_ranks:
    input:
        lambda wildcards: trained_on(run_of(wildcards).dataset),
    output:
        weights=["results/{run}/{seed}/model.safetensors"],
        card=["results/{run}/{seed}/model.json"],
        history=["results/{run}/{seed}/history.parquet"],
    log:
        "logs/train_ranks/{run}.{seed}.log",
    benchmark:
        "benchmarks/train_ranks/{run}.{seed}.tsv"
    wildcard_constraints:
        run=any_of(RANKED_RUNS),
    conda:
        "../../environment.yml"
    threads: lambda wildcards: threads_of(wildcards.run)
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(240),
        nodes=1,
        tasks=lambda wildcards: run_of(wildcards).training.n_ranks,
        mpi="torchrun",
        gpu=lambda wildcards: int(run_of(wildcards).training.device == "cuda"),
    params:
        models=model_options,
        place=lambda wildcards: f"{wildcards.run}/{wildcards.seed}",
        settings=lambda wildcards: run_of(wildcards).fit.model_dump_json(),
    shell:
        LAUNCH + TRAIN


# all seeds of a run side by side: a rule a run, for it has as many outputs as the run has seeds
for stacked in STACKED_RUNS:

    rule:
        name:
            f"train_seeds_{stacked}"
        input:
            trained_on(settings.runs[stacked].dataset),
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
            mem_mb=more_each_try(8000),
            runtime=more_each_try(480),
            gpu=int(settings.runs[stacked].training.device == "cuda"),
        params:
            models=model_options,
            place=f"{stacked}/seeds",
            settings=lambda wildcards, run=stacked: settings.runs[
                run
            ].fit.model_dump_json(),
        shell:
            TRAIN
