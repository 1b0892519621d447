"""What a run made → results/{run}/export/ for other programs, and results/{run}/{seed}/model_card.md for people."""

EXPORTED = [
    "embeddings.parquet",
    "factors.parquet",
    "factor_classes.parquet",
    "factor_effects.parquet",
    "factor_scores.parquet",
    "explorer.h5ad",
]


rule export_run:
    input:
        embedded=of_seeds("embedded.h5ad"),
        report="results/{run}/factors.h5ad",
        scores="results/{run}/embedded.h5ad",
    output:
        expand("results/{{run}}/export/{file}", file=EXPORTED),
    log:
        "logs/export_run/{run}.log",
    benchmark:
        "benchmarks/export_run/{run}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
    params:
        embedded=lambda wildcards, input: [
            f"--embedded={path}" for path in input.embedded
        ],
        settings=lambda wildcards: run_of(wildcards).export.model_dump_json(),
    shell:
        """
        python -m nvae_bio export \
            {params.embedded:q} \
            --report {input.report:q} \
            --scores {input.scores:q} \
            --output results/{wildcards.run}/export \
            --settings {params.settings:q} \
            >{log:q} 2>&1
        """


# with the scores of the run, where it has some
rule describe_model:
    input:
        card="results/{run}/{seed}/model.json",
        history="results/{run}/{seed}/history.parquet",
        embedded="results/{run}/{seed}/embedded.h5ad",
        report="results/{run}/factors.h5ad",
        evaluation=lambda wildcards: (
            f"results/{wildcards.run}/scores.csv"
            if wildcards.run in EVALUATED_RUNS
            else []
        ),
    output:
        "results/{run}/{seed}/model_card.md",
    log:
        "logs/describe_model/{run}.{seed}.log",
    benchmark:
        "benchmarks/describe_model/{run}.{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(10),
    params:
        evaluation=lambda wildcards, input: (
            ["--evaluation", input.evaluation] if input.evaluation else []
        ),
    shell:
        """
        python -m nvae_bio export \
            --card {input.card:q} \
            --history {input.history:q} \
            --embedded {input.embedded:q} \
            --report {input.report:q} \
            {params.evaluation:q} \
            --model-card {output:q} \
            >{log:q} 2>&1
        """
