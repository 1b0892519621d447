"""Prepared data → scores of other methods; all scores of a study → its table and page."""

if settings.study is not None:

    rule evaluate_baseline:
        input:
            data=lambda wildcards: f"resources/prepared/{settings.study_runs[wildcards.run].own_dataset}.h5ad",
            truth=lambda wildcards: (
                truth_of(wildcards) if settings.study.evaluate == "factors" else []
            ),
        output:
            "results/{run}/scores.csv",
        log:
            "logs/evaluate_baseline/{run}.log",
        benchmark:
            "benchmarks/evaluate_baseline/{run}.tsv"
        wildcard_constraints:
            run=any_of([run for run in BASELINES if run not in WITH_EXTRA]),
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=more_each_try(8000),
            runtime=more_each_try(60),
        params:
            kind=settings.study.evaluate,
            method=lambda wildcards: BASELINES[wildcards.run],
            seeds=lambda wildcards: [
                f"--seed={seed}" for seed in settings.study_runs[wildcards.run].seeds
            ],
            options=baseline_options,
            settings=scoring_options,
            title=lambda wildcards: settings.study_runs[wildcards.run].title,
            variant=lambda wildcards: settings.study_runs[wildcards.run].variant,
        shell:
            """
            OMP_NUM_THREADS={threads} python -m nvae_bio baseline \
                --kind {params.kind} \
                --method {params.method} \
                --data {input.data:q} \
                {params.options:q} \
                {params.seeds:q} \
                {params.settings:q} \
                --dataset {params.title:q} \
                --variant {params.variant:q} \
                --output {output:q} \
                >{log:q} 2>&1
            """

    use rule evaluate_baseline as evaluate_peer with:
        log:
            "logs/evaluate_peer/{run}.log",
        benchmark:
            "benchmarks/evaluate_peer/{run}.tsv"
        wildcard_constraints:
            run=any_of([run for run in BASELINES if run in WITH_EXTRA]),
        conda:
            "../../environment-benchmark.yml"
        resources:
            mem_mb=more_each_try(8000),
            runtime=more_each_try(240),

    rule gather_study:
        input:
            scores=score_files(),
            kept=list(KEPT_FIGURES.values()),
        output:
            table=study_file(".csv"),
            figure=study_file(".png"),
            kept=list(KEPT_FIGURES),
            page=update(study_file(".md")),  # its prose stays
        log:
            "logs/gather_study/study.log",
        benchmark:
            "benchmarks/gather_study/study.tsv"
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=more_each_try(8000),
            runtime=more_each_try(60),
        params:
            scores=lambda wildcards, input: [
                f"--scores={path}" for path in input.scores
            ],
            kept=lambda wildcards, input, output: [
                option
                for pair in zip(input.kept, output.kept)
                for option in ("--keep", *pair)
            ],
            settings=lambda wildcards: settings.study.model_dump_json(),
        shell:
            """
            python -m nvae_bio study \
                {params.scores:q} \
                --table {output.table:q} \
                --page {output.page:q} \
                --figure {output.figure:q} \
                {params.kept:q} \
                --settings {params.settings:q} \
                >{log:q} 2>&1
            """
