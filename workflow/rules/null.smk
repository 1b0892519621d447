"""resources/prepared/{dataset}.h5ad → results/{run}/null/base.* → results/{run}/null/{kind}/{part}.parquet."""


# the model without private latents from which null data are drawn
rule train_base:
    input:
        prepared_of,
    output:
        weights="results/{run}/null/base.safetensors",
        card="results/{run}/null/base.json",
        history="results/{run}/null/base.parquet",
    log:
        "logs/train_base/{run}.log",
    benchmark:
        "benchmarks/train_base/{run}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: threads_of(wildcards.run)
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(240),
        gpu=lambda wildcards: int(run_of(wildcards).training.device == "cuda"),
    params:
        settings=lambda wildcards: run_of(wildcards).fit.base.model_dump_json(),
        seed=lambda wildcards: run_of(wildcards).seeds[0],
    shell:
        """
        OMP_NUM_THREADS={threads} python -m nvae_bio train \
            --data {input:q} \
            --weights {output.weights:q} \
            --card {output.card:q} \
            --history {output.history:q} \
            --settings {params.settings:q} \
            --seed {params.seed} \
            --checkpoint resources/checkpoints/{wildcards.run:q}/base \
            >{log:q} 2>&1
        """


# some refits a job
rule refit_null:
    input:
        data=prepared_of,
        weights="results/{run}/null/base.safetensors",
        card="results/{run}/null/base.json",
    output:
        "results/{run}/null/{kind}/{part}.parquet",
    log:
        "logs/refit_null/{run}.{kind}.{part}.log",
    benchmark:
        "benchmarks/refit_null/{run}.{kind}.{part}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: threads_of(wildcards.run)
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(480),
        gpu=lambda wildcards: int(run_of(wildcards).training.device == "cuda"),
    params:
        refits=refit_options,
        settings=lambda wildcards: run_of(wildcards).fit.model_dump_json(),
    shell:
        """
        OMP_NUM_THREADS={threads} python -m nvae_bio null \
            --data {input.data:q} \
            --weights {input.weights:q} \
            --card {input.card:q} \
            --output {output:q} \
            --settings {params.settings:q} \
            --kind {wildcards.kind} \
            {params.refits:q} \
            --checkpoint resources/checkpoints/{wildcards.run:q}/null.{wildcards.kind}.{wildcards.part} \
            >{log:q} 2>&1
        """
