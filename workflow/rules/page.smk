"""The results of a run → results/{run}/report.html, one page to open in a browser."""


# of the files that a page is made of, those of seeds are the models', and what is drawn is the first seed's
rule build_page:
    input:
        data=prepared_of,
        report="results/{run}/factors.h5ad",
        scores="results/{run}/embedded.h5ad",
        embedded=lambda wildcards: of_seeds("embedded.h5ad")(wildcards)[:1],
        card=of_seeds("model.json"),
        history=of_seeds("history.parquet"),
        evaluation=evaluation_file,
        generated=picture_files,
    output:
        "results/{run}/report.html",
    log:
        "logs/build_page/{run}.log",
    benchmark:
        "benchmarks/build_page/{run}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
    params:
        files=page_options,
        settings=lambda wildcards: run_of(wildcards).page.model_dump_json(),
    shell:
        """
        OMP_NUM_THREADS={threads} python -m nvae_bio page \
            --data {input.data:q} \
            --report {input.report:q} \
            --scores {input.scores:q} \
            --embedded {input.embedded:q} \
            {params.files:q} \
            --name {wildcards.run:q} \
            --output {output:q} \
            --settings {params.settings:q} \
            >{log:q} 2>&1
        """
