"""Reports, models or prepared data, and what is known of the data → results/{run}/scores.csv → the study's table and page."""

if settings.study is not None:

    rule evaluate_run:
        input:
            embedded=scored_samples,
            report=scored_report,
            truth=truth_of,
            weights=models_of("model.safetensors"),
            card=models_of("model.json"),
        output:
            "results/{run}/scores.csv",
        log:
            "logs/evaluate_run/{run}.log",
        benchmark:
            "benchmarks/evaluate_run/{run}.tsv"
        wildcard_constraints:
            run=any_of([run for run in settings.study_runs if run not in BASELINES]),
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=8000,
            runtime=60,
        params:
            files=lambda wildcards, input: [
                f"--{name}={path}"
                for name in ("embedded", "report", "truth", "weights", "card")
                for path in input.get(name)
            ],
            kind=settings.study.evaluate,
            calls=factor_options,
            condition=condition_options(),
            title=lambda wildcards: settings.study_runs[wildcards.run].title,
            variant=lambda wildcards: settings.study_runs[wildcards.run].variant,
        shell:
            """
            OMP_NUM_THREADS={threads} python -m nvae_bio evaluate \
                --kind {params.kind} \
                {params.calls:q} \
                {params.files:q} \
                {params.condition:q} \
                --dataset {params.title:q} \
                --variant {params.variant:q} \
                --output {output:q} \
                >{log:q} 2>&1
            """

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
            run=any_of([run for run in BASELINES if BASELINES[run] not in PEERS]),
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=8000,
            runtime=60,
        params:
            method=lambda wildcards: BASELINES[wildcards.run],
            seeds=lambda wildcards: [
                f"--seed={seed}" for seed in settings.study_runs[wildcards.run].seeds
            ],
            options=baseline_options,
            condition=condition_options(),
            title=lambda wildcards: settings.study_runs[wildcards.run].title,
            variant=lambda wildcards: settings.study_runs[wildcards.run].variant,
        shell:
            """
            OMP_NUM_THREADS={threads} python -m nvae_bio baseline \
                --method {params.method} \
                --data {input.data:q} \
                {params.options:q} \
                {params.seeds:q} \
                {params.condition:q} \
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
            run=any_of([run for run in BASELINES if BASELINES[run] in PEERS]),
        conda:
            "../../environment-benchmark.yml"
        resources:
            mem_mb=8000,
            runtime=240,

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
