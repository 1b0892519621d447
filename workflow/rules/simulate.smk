"""Real samples → resources/simulated/{simulation}.h5ad, and what is planted in it: {simulation}.truth.h5ad."""


rule simulate_data:
    input:
        lambda wildcards: source_paths(wildcards.simulation),
    output:
        data="resources/simulated/{simulation}.h5ad",
        truth="resources/simulated/{simulation}.truth.h5ad",
    log:
        "logs/simulate_data/{simulation}.log",
    benchmark:
        "benchmarks/simulate_data/{simulation}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
    params:
        settings=lambda wildcards: settings.simulations[
            wildcards.simulation
        ].model_dump_json(),
    shell:
        """
        python -m nvae_bio simulate \
            --settings {params.settings:q} \
            --output {output.data:q} \
            --truth {output.truth:q} \
            >{log:q} 2>&1
        """
