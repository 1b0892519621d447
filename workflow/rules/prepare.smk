"""Raw samples → resources/prepared/{dataset}.h5ad, and beside it {dataset}.store where `storage: disk` says so."""


rule prepare_data:
    input:
        lambda wildcards: settings.datasets[wildcards.dataset].path_list,
    output:
        data="resources/prepared/{dataset}.h5ad",
    log:
        "logs/prepare_data/{dataset}.log",
    benchmark:
        "benchmarks/prepare_data/{dataset}.tsv"
    wildcard_constraints:
        dataset=any_of(set(settings.datasets) - set(STORED)),
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
        store=[],
    shell:
        """
        python -m nvae_bio prepare \
            --settings {params.settings:q} \
            --output {output.data:q} \
            {params.store:q} \
            >{log:q} 2>&1
        """


use rule prepare_data as prepare_store with:
    output:
        data="resources/prepared/{dataset}.h5ad",
        store=directory("resources/prepared/{dataset}.store"),
    log:
        "logs/prepare_store/{dataset}.log",
    benchmark:
        "benchmarks/prepare_store/{dataset}.tsv"
    wildcard_constraints:
        dataset=any_of(STORED),
    resources:
        mem_mb=more_each_try(8000),
        runtime=more_each_try(240),
    params:
        settings=lambda wildcards: settings.datasets[
            wildcards.dataset
        ].model_dump_json(),
        store=lambda wildcards, output: ["--store", output.store],
