"""resources/prepared/{dataset}.h5ad → results/{run}/power/{part}.parquet."""


# some plantings a job
rule plant_programmes:
    input:
        prepared_of,
    output:
        "results/{run}/power/{part}.parquet",
    log:
        "logs/plant_programmes/{run}.{part}.log",
    benchmark:
        "benchmarks/plant_programmes/{run}.{part}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: threads_of(wildcards.run)
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(480),
        gpu=lambda wildcards: int(run_of(wildcards).training.device == "cuda"),
    params:
        plantings=lambda wildcards: [
            f"--planting={number}"
            for number in run_of(wildcards).plantings[int(wildcards.part)]
        ],
        settings=lambda wildcards: run_of(wildcards).planting.model_dump_json(),
    shell:
        """
        OMP_NUM_THREADS={threads} python -m nvae_bio power \
            --data {input:q} \
            --output {output:q} \
            --settings {params.settings:q} \
            {params.plantings:q} \
            --checkpoint resources/checkpoints/{wildcards.run:q}/power.{wildcards.part} \
            >{log:q} 2>&1
        """
