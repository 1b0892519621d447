"""What the seeds of a run, its null, its audits and its plantings say → results/{run}/factors.h5ad and what is beside it."""


# what several seeds agree on
rule report_factors:
    input:
        embedded=of_seeds("embedded.h5ad"),
        null=null_files,
        audit=audit_files,
        planted=power_files,
        gene_sets=gene_set_file,
    output:
        report="results/{run}/factors.h5ad",
        table="results/{run}/factors.parquet",
        seeds="results/{run}/seed_factors.h5ad",
        scores="results/{run}/embedded.h5ad",
        suspects="results/{run}/suspects.csv",
        summary="results/{run}/summary.md",
    log:
        "logs/report_factors/{run}.log",
    benchmark:
        "benchmarks/report_factors/{run}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(120),
    params:
        tables=lambda wildcards, input: [
            f"--{name}={path}"
            for name in ("embedded", "null", "audit", "planted")
            for path in input.get(name)
        ],
        settings=lambda wildcards: run_of(wildcards).factors.model_dump_json(),
    shell:
        """
        OMP_NUM_THREADS={threads} python -m nvae_bio factors \
            {params.tables:q} \
            --report {output.report:q} \
            --table {output.table:q} \
            --seeds {output.seeds:q} \
            --scores {output.scores:q} \
            --suspects {output.suspects:q} \
            --summary {output.summary:q} \
            --settings {params.settings:q} \
            >{log:q} 2>&1
        """


# what a re-run might change
rule suggest_settings:
    input:
        "results/{run}/factors.h5ad",
    output:
        "results/{run}/suggested.yaml",
    log:
        "logs/suggest_settings/{run}.log",
    benchmark:
        "benchmarks/suggest_settings/{run}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=more_each_try(2000),
        runtime=more_each_try(10),
    shell:
        """
        python -m nvae_bio suggest --report {input:q} --output {output:q} >{log:q} 2>&1
        """
