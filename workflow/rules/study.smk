"""results/{run}/factors.h5ad and what is known of the data → results/{run}/scores.csv → the study's table and page."""

if settings.study is not None:

    rule evaluate_run:
        input:
            report="results/{run}/factors.h5ad",
            embedded=of_seeds("embedded.h5ad"),
            truth=truth_of,
        output:
            "results/{run}/scores.csv",
        log:
            "logs/evaluate_run/{run}.log",
        benchmark:
            "benchmarks/evaluate_run/{run}.tsv"
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=8000,
            runtime=60,
        params:
            files=lambda wildcards, input: [
                *(f"--embedded={path}" for path in input.embedded),
                *(f"--truth={path}" for path in input.truth),
            ],
            kind=settings.study.evaluate,
            row=lambda wildcards: settings.study_runs[wildcards.run].row,
            variant=lambda wildcards: settings.study_runs[wildcards.run].variant,
        shell:
            """
            OMP_NUM_THREADS={threads} python -m nvae_bio evaluate \
                --kind {params.kind} \
                --report {input.report:q} \
                {params.files:q} \
                --dataset {params.row:q} \
                --variant {params.variant:q} \
                --output {output:q} \
                >{log:q} 2>&1
            """

    rule gather_study:
        input:
            score_files(),
        output:
            table=study_file(".csv"),
            figure=study_file(".png"),
            page=update(study_file(".md")),  # its prose stays
        log:
            "logs/gather_study/study.log",
        benchmark:
            "benchmarks/gather_study/study.tsv"
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=8000,
            runtime=60,
        params:
            scores=lambda wildcards, input: [f"--scores={path}" for path in input],
            settings=lambda wildcards: settings.study.model_dump_json(),
        shell:
            """
            python -m nvae_bio study \
                {params.scores:q} \
                --table {output.table:q} \
                --page {output.page:q} \
                --figure {output.figure:q} \
                --settings {params.settings:q} \
                >{log:q} 2>&1
            """
