"""Raw samples → resources/prepared/{dataset}.h5ad."""


rule prepare_data:
    input:
        lambda wildcards: settings.datasets[wildcards.dataset].path_list,
    output:
        "resources/prepared/{dataset}.h5ad",
    log:
        "logs/prepare_data/{dataset}.log",
    benchmark:
        "benchmarks/prepare_data/{dataset}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(60),
    params:
        settings=lambda wildcards: settings.datasets[
            wildcards.dataset
        ].model_dump_json(),
    shell:
        """
        python -m nvae_bio prepare \
            --settings {params.settings:q} \
            --output {output:q} \
            >{log:q} 2>&1
        """
