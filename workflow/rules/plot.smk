"""Tables → figures: results/{run}/figures/ for a run, results/{run}/{seed}/figures/ for each seed."""


rule plot_figures:
    input:
        data=prepared_of,
        histories=of_seeds("history.parquet"),
        report="results/{run}/factors.h5ad",
    output:
        figure_files("results/{run}/figures", RUN_FIGURES, "all"),
    log:
        "logs/plot_figures/{run}.log",
    benchmark:
        "benchmarks/plot_figures/{run}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        histories=lambda wildcards, input: [
            f"--history={path}" for path in input.histories
        ],
    shell:
        """
        python -m nvae_bio plot \
            --data {input.data:q} \
            {params.histories:q} \
            --report {input.report:q} \
            --output results/{wildcards.run}/figures \
            >{log:q} 2>&1
        """


rule plot_embedding:
    input:
        "results/{run}/{seed}/embedded.h5ad",
    output:
        figure_files("results/{run}/{seed}/figures", SEED_FIGURES, "{seed}"),
    log:
        "logs/plot_embedding/{run}.{seed}.log",
    benchmark:
        "benchmarks/plot_embedding/{run}.{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    shell:
        """
        python -m nvae_bio plot \
            --embedded {input:q} \
            --output results/{wildcards.run}/{wildcards.seed}/figures \
            >{log:q} 2>&1
        """


rule plot_images:
    input:
        samples="results/{run}/{seed}/samples.h5ad",
        traversals="results/{run}/{seed}/traversals.h5ad",
        report="results/{run}/factors.h5ad",
    output:
        figure_files("results/{run}/{seed}/figures", IMAGE_FIGURES, "{seed}"),
    log:
        "logs/plot_images/{run}.{seed}.log",
    benchmark:
        "benchmarks/plot_images/{run}.{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    shell:
        """
        python -m nvae_bio plot \
            --samples {input.samples:q} \
            --traversals {input.traversals:q} \
            --report {input.report:q} \
            --output results/{wildcards.run}/{wildcards.seed}/figures \
            >{log:q} 2>&1
        """
