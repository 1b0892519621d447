"""Prepared data and a model → results/{run}/{seed}/audit.parquet."""


# each sample under other labels, and with other classes' factors
rule audit_labels:
    input:
        data=prepared_of,
        weights="results/{run}/{seed}/model.safetensors",
        card="results/{run}/{seed}/model.json",
    output:
        "results/{run}/{seed}/audit.parquet",
    log:
        "logs/audit_labels/{run}.{seed}.log",
    benchmark:
        "benchmarks/audit_labels/{run}.{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: run_of(wildcards).training.threads
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(120),
    params:
        settings=lambda wildcards: run_of(wildcards).audit.model_dump_json(),
    shell:
        """
        OMP_NUM_THREADS={threads} python -m nvae_bio audit \
            --data {input.data:q} \
            --weights {input.weights:q} \
            --card {input.card:q} \
            --output {output:q} \
            --settings {params.settings:q} \
            >{log:q} 2>&1
        """
