from snakemake.utils import min_version

min_version("9.14")


if (
    "datasets" not in config
):  # a config given on the command line stands alone; it is not laid over the default one

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/simulate.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/embed.smk"
include: "workflow/rules/audit.smk"
include: "workflow/rules/null.smk"
include: "workflow/rules/power.smk"
include: "workflow/rules/factors.smk"
include: "workflow/rules/generate.smk"
include: "workflow/rules/query.smk"
include: "workflow/rules/counterfactual.smk"
include: "workflow/rules/plot.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/page.smk"
include: "workflow/rules/study.smk"
include: "workflow/rules/export.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        all_results(),
