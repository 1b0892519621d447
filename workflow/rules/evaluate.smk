"""Reports and models, and what is known of the data → results/{run}/scores.csv."""


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
        run=any_of([run for run in SCORED_RUNS if run not in WITH_EXTRA]),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
    params:
        files=lambda wildcards, input: [
            f"--{name}={path}"
            for name in ("embedded", "report", "truth", "weights", "card")
            for path in input.get(name)
        ],
        kind=lambda wildcards: scored_kind(wildcards.run),
        calls=factor_options,
        settings=scoring_options,
        title=lambda wildcards: names_of(wildcards)[0],
        variant=lambda wildcards: names_of(wildcards)[1],
    shell:
        """
        OMP_NUM_THREADS={threads} python -m nvae_bio evaluate \
            --kind {params.kind} \
            {params.calls:q} \
            {params.files:q} \
            {params.settings:q} \
            --dataset {params.title:q} \
            --variant {params.variant:q} \
            --output {output:q} \
            >{log:q} 2>&1
        """


use rule evaluate_run as evaluate_run_with_extra with:
    log:
        "logs/evaluate_run_with_extra/{run}.log",
    benchmark:
        "benchmarks/evaluate_run_with_extra/{run}.tsv"
    wildcard_constraints:
        run=any_of([run for run in SCORED_RUNS if run in WITH_EXTRA]),
    conda:
        "../../environment-benchmark.yml"
