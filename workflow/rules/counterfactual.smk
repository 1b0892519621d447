"""A model and a change → changed samples of results/{run}/{seed}/counterfactuals/."""


rule change_samples:
    input:
        data=prepared_of,
        weights="results/{run}/{seed}/model.safetensors",
        card="results/{run}/{seed}/model.json",
    output:
        samples="results/{run}/{seed}/counterfactuals/{change}.h5ad",
        table="results/{run}/{seed}/counterfactuals/{change}.parquet",
    log:
        "logs/change_samples/{run}.{seed}.{change}.log",
    benchmark:
        "benchmarks/change_samples/{run}.{seed}.{change}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: run_of(wildcards).training.threads
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
    params:
        settings=lambda wildcards: change_of(wildcards).model_dump_json(),
    shell:
        """
        python -m nvae_bio counterfactual \
            --data {input.data:q} \
            --weights {input.weights:q} \
            --card {input.card:q} \
            --output {output.samples:q} \
            --table {output.table:q} \
            --settings {params.settings:q} \
            >{log:q} 2>&1
        """


rule plot_change:
    input:
        "results/{run}/{seed}/counterfactuals/{change}.h5ad",
    output:
        "results/{run}/{seed}/counterfactuals/{change}.png",
        "results/{run}/{seed}/counterfactuals/{change}.svg",
    log:
        "logs/plot_change/{run}.{seed}.{change}.log",
    benchmark:
        "benchmarks/plot_change/{run}.{seed}.{change}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
    shell:
        """
        python -m nvae_bio plot \
            --changed {input:q} \
            --output results/{wildcards.run}/{wildcards.seed}/counterfactuals \
            >{log:q} 2>&1
        """
