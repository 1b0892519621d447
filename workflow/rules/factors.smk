"""The embedded files of all seeds of a run and the refits of its null → results/{run}/factors.h5ad and factors.parquet."""


rule report_factors:
    input:
        embedded=of_seeds("embedded.h5ad"),
        null=null_files,
    output:
        report="results/{run}/factors.h5ad",
        table="results/{run}/factors.parquet",
    log:
        "logs/report_factors/{run}.log",
    benchmark:
        "benchmarks/report_factors/{run}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        tables=lambda wildcards, input: [
            *(f"--embedded={path}" for path in input.embedded),
            *(f"--null={path}" for path in input.null),
        ],
        settings=lambda wildcards: run_of(wildcards).report.model_dump_json(),
    shell:
        """
        python -m nvae_bio factors \
            {params.tables:q} \
            --report {output.report:q} \
            --table {output.table:q} \
            --settings {params.settings:q} \
            >{log:q} 2>&1
        """
