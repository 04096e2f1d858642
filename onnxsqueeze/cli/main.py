"""The command line. It parses, calls the library and renders; heavy imports come late."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

import onnxsqueeze
from onnxsqueeze.cli import several
from onnxsqueeze.cli.afterwards import afterwards
from onnxsqueeze.cli.doctor import doctor
from onnxsqueeze.cli.options import (
    GIVEN,
    MODEL,
    bench_options,
    check_report_options,
    deployment_options,
    external_option,
    force_option,
    layernorm_option,
    page_options,
    planning_options,
    report_options,
    sizes_option,
    verification_options,
)
from onnxsqueeze.cli.outcomes import default_output, save_result, warn, warn_of
from onnxsqueeze.cli.outputs import (
    check_output,
    check_reports,
    input_files,
    is_stdout,
    print_out,
    write_json,
    write_report,
)
from onnxsqueeze.cli.pages import check_page, write_page
from onnxsqueeze.cli.program import EXIT_CODES, Program, complain
from onnxsqueeze.cli.progress import ProgressBar
from onnxsqueeze.cli.signals import INTERRUPTED
from onnxsqueeze.cli.squeezing import squeeze
from onnxsqueeze.errors import DeploymentError, InvalidModelError, SqueezeError


@click.group(
    cls=Program, no_args_is_help=False, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(onnxsqueeze.__version__)
def main() -> None:
    """Make pruned ONNX models small: rewrite a model whose weights were masked exactly into a smaller dense one."""
    # numpy's BLAS starts a thread for each core when it is imported, which takes longer than all the products here
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@main.command(epilog=EXIT_CODES, short_help="Write a smaller model that computes the same.")
@click.argument("sources", metavar="IN.onnx [...]", type=GIVEN, nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=MODEL,
    metavar="OUT.onnx|DIR",
    help="The file to write; for several files, the folder.  [default: IN.min.onnx]",
)
@force_option("Allow OUT to be IN itself, and l")
@click.option("--no-verify", is_flag=True, help="Do not compare the two models.")
@layernorm_option
@external_option
@verification_options
@planning_options
@page_options
@report_options
def minimize(
    sources: tuple[Path, ...],
    output: Path | None,
    force: bool,
    no_verify: bool,
    layernorm: str,
    external_data: str,
    page_path: Path | None,
    show_page: bool,
    json_path: Path | None,
    quiet: bool,
    verbose: bool,
    samples: int | None,
    **options: Any,
) -> None:
    """Write a smaller model that computes the same as IN.onnx.

    It has the same inputs, outputs, names, types and dynamic dimensions. It is compared with the original before it is
    written. When nothing can go, the output is a faithful copy and the report says why. Several files, or a glob
    pattern, get one line each, and one that fails does not stop the others.
    """
    check_report_options(quiet, verbose)
    _check_verification_options(no_verify, samples=samples, **options)
    (source, *others) = several.expanded(sources)
    if others:
        how = {**options, "layernorm": layernorm, "samples": samples or 2, "verify": not no_verify}
        read = input_files(source, *others, samples=options["inputs"])
        batch = several.Batch(read, json_path, page_path, show_page, quiet, force)
        batch.minimize(output, external_data, how)
        return
    _check_source(source)
    target = output or default_output(source)
    read = input_files(source, samples=options["inputs"])
    check_output(read, source, target, force)
    check_reports({"--json": json_path, "--report": page_path}, read, force, target)
    check_page(page_path, show_page)
    with ProgressBar(quiet) as steps:
        try:
            options.update(layernorm=layernorm, samples=samples or 2)
            result = onnxsqueeze.minimize(source, verify=not no_verify, progress=steps, **options)
        except SqueezeError as error:
            if details := error.details():
                write_json(json_path, {"input": str(source), "error": str(error), **details})
            raise
        steps("writing")
        written, seconds = save_result(result, target, external_data)
        with afterwards("drawing the page"):
            write_page(page_path, show_page, result.page, source.name)
    if quiet and json_path is None:
        warn(map(str, result.failures))  # a user should know of them all the same
        return
    with afterwards("making the report"):
        report = replace(result.report, bytes_after=written, seconds={**result.report.seconds, "write": seconds})
        write_json(json_path, {"input": str(source), "output": str(target), **report.to_dict()})
        warn_of(report, quiet, verbose)
        if not quiet and not is_stdout(json_path):
            from onnxsqueeze.cli import tables

            print_out(tables.minimized(report, str(target), verbose))


@main.command(epilog=EXIT_CODES, short_help="Say what a mask is worth, and why the rest stays.")
@click.argument("sources", metavar="IN.onnx [...]", type=GIVEN, nargs=-1, required=True)
@planning_options
@sizes_option
@page_options
@force_option("L")
@report_options
def inspect(
    sources: tuple[Path, ...],
    page_path: Path | None,
    show_page: bool,
    force: bool,
    json_path: Path | None,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Say what the mask of IN.onnx is worth, layer by layer, and why the rest stays. Writes no model."""
    check_report_options(quiet, verbose)
    (source, *others) = several.expanded(sources)
    if others:
        batch = several.Batch(input_files(source, *others), json_path, page_path, show_page, quiet, force)
        batch.inspect(options)
        return
    check_reports({"--json": json_path, "--report": page_path}, input_files(source), force)
    check_page(page_path, show_page)
    with ProgressBar(quiet) as steps:
        result = onnxsqueeze.minimize(source, verify=False, progress=steps, **options)
        report = result.report
        write_page(page_path, show_page, result.page, source.name)
    write_json(json_path, {"input": str(source), **report.to_dict()})
    warn_of(report, quiet, verbose)
    if not quiet and not is_stdout(json_path):
        from onnxsqueeze.cli import tables

        print_out(tables.inspected(report, verbose))


@main.command(epilog=EXIT_CODES, short_help="Compare two models.")
@click.argument("original", metavar="A.onnx", type=GIVEN)
@click.argument("others", metavar="B.onnx [...]", type=GIVEN, nargs=-1, required=True)
@verification_options
@force_option("L")
@report_options
def verify(
    original: Path,
    others: tuple[Path, ...],
    force: bool,
    json_path: Path | None,
    quiet: bool,
    verbose: bool,
    samples: int | None,
    **options: Any,
) -> None:
    """Compare B.onnx with A.onnx: the same signature and, on the same inputs, the same outputs up to rounding.

    Several files are compared with A.onnx one by one. If the last is a folder, each of the others is compared with its
    namesake there, NAME.min.onnx or NAME.onnx.
    """
    check_report_options(quiet, verbose)
    (other, *more) = several.expanded(others)
    if more or other.is_dir():
        read = input_files(original, other, *more, samples=options["inputs"])
        several.Batch(read, json_path, None, False, quiet, force).verify({**options, "samples": samples or 2})
        return
    check_reports({"--json": json_path}, input_files(original, other, samples=options["inputs"]), force)
    with ProgressBar(quiet) as steps:
        report = onnxsqueeze.verify(original, other, samples=samples or 2, progress=steps, **options)
    write_json(json_path, {"original": str(original), "other": str(other), **report.to_dict()})
    if not quiet and not is_stdout(json_path):
        from onnxsqueeze.cli import tables

        print_out(tables.verified(report, verbose))
    if not report.passed:
        from onnxsqueeze.verification.report import VerificationError

        raise VerificationError(f"{other} is not equivalent to {original}: {report.reason}", report)


@main.command(epilog=EXIT_CODES, short_help="Write what a runtime loads, with a manifest.")
@click.argument("source", metavar="MODEL.onnx", type=GIVEN)
@deployment_options
@report_options
def deploy(
    source: Path,
    target: str,
    output: Path,
    force: bool,
    fp16: bool,
    int8: bool,
    json_path: Path | None,
    quiet: bool,
    verbose: bool,
    samples: int | None,
    **options: Any,
) -> None:
    """Write what a runtime loads into the folder DIR, beside manifest.json: versions, checksums, deviation.

    It runs in that runtime and is compared with MODEL.onnx in onnxruntime. Without --fp16 and --int8 it is the same
    function up to rounding. DIR is there whole or not at all.
    """
    check_report_options(quiet, verbose)
    read = input_files(source, samples=options["inputs"], calibrate=options["calibrate"])
    check_reports({"--json": json_path}, read, force, output)
    if fp16 and int8:
        raise click.UsageError("--fp16 and --int8 exclude each other", click.get_current_context())
    from onnxsqueeze import deployment

    precision = "float16" if fp16 else "int8" if int8 else "unchanged"
    how = deployment.Options(precision, samples=samples or 2, **options)
    with ProgressBar(quiet) as steps:
        manifest = deployment.deploy(source, target, output, how, force=force, progress=steps)
    write_json(json_path, {"input": str(source), "output": str(output), **manifest.to_dict()})
    if not quiet and not is_stdout(json_path):
        from onnxsqueeze.cli import runtime_tables

        print_out(runtime_tables.deployed(manifest, str(output)))


@main.command(epilog=EXIT_CODES, short_help="Measure models side by side in several runtimes.")
@click.argument("models", metavar="A.onnx [B.onnx ...]", type=GIVEN, nargs=-1, required=True)
@bench_options
@page_options
@force_option("L")
@report_options
def bench(
    models: tuple[Path, ...],
    force: bool,
    runtimes: tuple[str, ...],
    json_path: Path | None,
    csv_path: Path | None,
    plot_path: Path | None,
    page_path: Path | None,
    show_page: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Measure models side by side: latency, time to load, memory, file sizes, and how far their outputs lie apart.

    They take the same inputs, as a model and its minimized form do. Ratios are to A.onnx in the same runtime. Each
    runtime works in processes of its own; one that is not installed, or does not take a model, is a line of the output.
    """
    check_report_options(quiet, verbose)
    written = {"--json": json_path, "--csv": csv_path, "--plot": plot_path, "--report": page_path}
    check_reports(written, input_files(*models), force)
    check_page(page_path, show_page)
    if is_stdout(json_path) and is_stdout(csv_path):
        raise click.UsageError("--json - and --csv - exclude each other", click.get_current_context())
    from onnxsqueeze.bench import Benchmark, Settings

    if plot_path is not None:
        from onnxsqueeze.bench.plotting import check_plot, plot

        check_plot(plot_path)
    with ProgressBar(quiet) as steps:
        benchmark = Benchmark(models, runtimes, Settings(**options), steps)
        with suppress(KeyboardInterrupt):  # what was measured until then is worth telling
            benchmark.run()
    report = benchmark.report()
    write_json(json_path, report.to_dict())
    write_report(csv_path, report.to_csv())
    if plot_path is not None:
        plot(report, plot_path)
    if page_path is not None:
        from onnxsqueeze.bench.page import page

        write_page(page_path, show_page, partial(page, report), " and ".join(model.name for model in models))
    warn(() if quiet else report.warnings)
    if not quiet and not is_stdout(json_path) and not is_stdout(csv_path):
        from onnxsqueeze.cli import runtime_tables

        print_out(runtime_tables.benched(report))
    if report.interrupted:
        click.get_current_context().exit(complain("interrupted; the rest was not measured", INTERRUPTED))
    if not report.measured:
        raise DeploymentError("nothing was measured: no runtime is installed and takes a model")


main.add_command(doctor)
main.add_command(squeeze)


def _check_source(source: Path) -> None:
    """Refuse what is no file before a name is made from it."""
    if source.is_dir():
        raise InvalidModelError(f"{source}: is a folder; give the path of the ONNX file inside it")


def _check_verification_options(no_verify: bool, **options: Any) -> None:
    given = [name for name in ("rtol", "atol", "samples", "inputs", "input_shapes") if options[name] not in (None, {})]
    if no_verify and given:
        name = given[0].replace("_shapes", "-shape")
        raise click.UsageError(f"--no-verify leaves nothing for --{name} to do", click.get_current_context())
