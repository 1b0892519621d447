"""Tables → figures: results/{run}/figures/ for a run, results/{run}/{seed}/figures/ for each seed."""


rule plot_figures:
    input:
        data=prepared_of,
        histories=of_seeds("history.parquet"),
        report="results/{run}/factors.h5ad",
        seeds="results/{run}/seed_factors.h5ad",
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
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
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
            --seeds {input.seeds:q} \
            --output results/{wildcards.run}/figures \
            >{log:q} 2>&1
        """


# a page a class and one a shared factor; how many is known only when they are drawn
rule plot_pages:
    input:
        report="results/{run}/factors.h5ad",
        scores="results/{run}/embedded.h5ad",
    output:
        report(
            directory("results/{run}/figures/pages"),
            patterns=["{page}.png"],
            caption="../report/pages.rst",
            category="{run}",
            subcategory="pages",
            labels={"figure": "{page}", "seed": "all"},
        ),
    log:
        "logs/plot_pages/{run}.log",
    benchmark:
        "benchmarks/plot_pages/{run}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
    shell:
        """
        python -m nvae_bio plot \
            --report {input.report:q} \
            --scores {input.scores:q} \
            --output {output:q} \
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
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
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
        interpolations="results/{run}/{seed}/interpolations.h5ad",
        seeds="results/{run}/seed_factors.h5ad",
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
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
    shell:
        """
        python -m nvae_bio plot \
            --samples {input.samples:q} \
            --traversals {input.traversals:q} \
            --interpolations {input.interpolations:q} \
            --seeds {input.seeds:q} \
            --output results/{wildcards.run}/{wildcards.seed}/figures \
            >{log:q} 2>&1
        """


rule plot_swaps:
    input:
        "results/{run}/{seed}/swaps.h5ad",
    output:
        figure_files("results/{run}/{seed}/figures", SWAP_FIGURES, "{seed}"),
    log:
        "logs/plot_swaps/{run}.{seed}.log",
    benchmark:
        "benchmarks/plot_swaps/{run}.{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
    shell:
        """
        python -m nvae_bio plot \
            --swaps {input:q} \
            --output results/{wildcards.run}/{wildcards.seed}/figures \
            >{log:q} 2>&1
        """


rule plot_scores:
    input:
        "results/{run}/scores.csv",
    output:
        figure_files("results/{run}/figures", SCORE_FIGURES, "all"),
    log:
        "logs/plot_scores/{run}.log",
    benchmark:
        "benchmarks/plot_scores/{run}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
    shell:
        """
        python -m nvae_bio plot \
            --evaluation {input:q} \
            --output results/{wildcards.run}/figures \
            >{log:q} 2>&1
        """
