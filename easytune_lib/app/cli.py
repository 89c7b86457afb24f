"""The command ``easytune``. What is heavy is imported by the subcommand that needs it."""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from easytune_lib import __version__

if TYPE_CHECKING:
    from easytune_lib.training import TrainingStep


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns 0, 1 (something failed), 2 (misuse) or 130 (interrupted)."""
    options = _parser().parse_args(arguments)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and _in_main_thread():
        signal.signal(signal.SIGINT, _stop)
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # also where it was raised, not sent
        print("\ninterrupted; what was done stays done", file=sys.stderr)
        return 130
    finally:
        if signal.getsignal(signal.SIGINT) is _stop and _in_main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop(*_: object) -> None:
    """What Ctrl-C does; from here on, and at no moment later, a second one ends all, silently."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="easytune", description="Align a text-to-motion diffusion model with a reward."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    reproduce = commands.add_parser("reproduce", help="run all notebooks that are not done")
    _add_size(reproduce)
    reproduce.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this notebook; may be repeated"
    )
    reproduce.set_defaults(run=_reproduce)

    run = commands.add_parser("run", help="run one notebook")
    run.add_argument("notebook", help="its name, the beginning of it (03), or its path")
    run.add_argument(
        "-p", nargs=2, action="append", default=[], dest="given", metavar=("NAME", "VALUE"),
        help="set a parameter; may be repeated",
    )  # fmt: skip
    _add_size(run)
    run.add_argument(
        "--inplace", action="store_true", help="store the outputs in the notebook itself"
    )
    run.set_defaults(run=_run)

    html = commands.add_parser("html", help="export all notebooks as pages that need no network")
    html.add_argument("--to", type=Path, default=Path("outputs/site"), help="default: %(default)s")
    html.set_defaults(run=_html)
    docs = commands.add_parser("docs", help="guides, notebooks and reference as one offline site")
    docs.add_argument("--to", type=Path, default=Path("outputs/docs"), help="default: %(default)s")
    docs.set_defaults(run=_docs)

    sweep = commands.add_parser(
        "sweep", help="run one notebook under many parameters, and choose the best"
    )
    sweep.add_argument("what", metavar="NOTEBOOK|FILE", help="a notebook's name, or a sweep file")
    sweep.add_argument(
        "--grid", action="append", default=[], metavar="NAME=VALUE,VALUE",
        help="vary a parameter; may be repeated",
    )  # fmt: skip
    sweep.add_argument("--seeds", type=_positive, default=0, help="vary seed: 0, 1, ...")
    sweep.add_argument(
        "-p", nargs=2, action="append", default=[], dest="given", metavar=("NAME", "VALUE"),
        help="set a parameter for all jobs; may be repeated",
    )  # fmt: skip
    sweep.add_argument("--choose", default="", help="of this parameter the best value is taken")
    sweep.add_argument("--lowest", default="", metavar="METRIC", help="less of it is better")
    sweep.add_argument("--highest", default="", metavar="METRIC", help="more of it is better")
    sweep.add_argument("--name", help="of the folder in outputs/sweeps; default: the notebook's")
    sweep.add_argument("--on", choices=("local", "slurm"), default="local")
    sweep.add_argument("--workers", type=_positive, default=0, help="jobs at a time")
    sweep.add_argument("--threads", type=_positive, default=1, help="slurm: cores a job")
    sweep.add_argument("--partition", help="slurm")
    sweep.add_argument("--gpus", type=int, default=0, help="slurm: GPUs a job")
    sweep.add_argument("--minutes", type=_positive, default=120, help="slurm: limit of a job")
    sweep.add_argument("--record", action="store_true", help="write its record into runs, too")
    _add_size(sweep)
    sweep.set_defaults(run=_sweep)

    data = commands.add_parser("data", help="look at a data set, fetch one, or make one")
    data_commands = data.add_subparsers(required=True, metavar="COMMAND")
    check = data_commands.add_parser("check", help="count what it holds, name all that is broken")
    check.add_argument("path", type=Path, help="a folder: HumanML3D, KIT-ML, or the packed bundle")
    check.set_defaults(run=_check)
    fetch = data_commands.add_parser("get", help="fetch published motion as HumanML3D has it")
    fetch.add_argument("name", choices=("bandai-namco", "cmu"))
    fetch.add_argument("--to", type=Path, metavar="FOLDER", help="default: outputs/data/NAME")
    bring = data_commands.add_parser("import", help="bring your own BVH files into that layout")
    bring.add_argument("folder", type=Path, help="of .bvh files, a caption file beside each")
    bring.add_argument(
        "--joints", required=True, metavar="NAME|FILE",
        help="how joints are called: bandai-namco, cmu-bvh, cmu-poser, mixamo, or a JSON file",
    )  # fmt: skip
    bring.add_argument("--out", type=Path, required=True, help="a new folder")
    bring.add_argument("--caption", default="", help="of files that have none")
    for each in (fetch, bring):
        each.add_argument(
            "--skip-bad", action="store_true", help="leave bad files out, instead of stopping"
        )
    fetch.set_defaults(run=_fetch)
    bring.set_defaults(run=_import)

    train = commands.add_parser("train", help="train a network, from any data set")
    train.add_argument(
        "what", choices=("base", "reward", "judge", "evaluation"),
        help="a network; or `evaluation`: prompts, and real motion as a trained judge sees it",
    )  # fmt: skip
    train.add_argument("--data", default="synthetic", help="a folder; default: %(default)s")
    train.add_argument(
        "--base", choices=("mdm", "mld", "mld_early", "mldpp", "motionlcm", "motiondiffuse"),
        default="mdm", help="default: %(default)s",
    )  # fmt: skip
    train.add_argument(
        "--noise", choices=("features", "latent", "clean"), default="features",
        help="what a reward learns to read through; default: %(default)s",
    )  # fmt: skip
    train.add_argument(
        "--buckets", type=_positive, default=1, metavar="N",
        help="of a reward: draw N batches at once and sort them by length; default: %(default)s",
    )  # fmt: skip
    train.add_argument(
        "--precision", choices=("float32", "bf16"), default="float32",
        help="of the passes of a base or a reward; default: %(default)s",
    )  # fmt: skip
    train.add_argument(
        "--accumulate", type=_positive, default=1, metavar="N",
        help="of a base or a reward: batches a step; default: %(default)s",
    )  # fmt: skip
    train.add_argument(
        "--out", type=Path, default=Path("outputs/weights"), help="a folder; default: %(default)s"
    )
    train.add_argument("--steps", type=_positive, help="optimizer steps; default: the laptop's")
    train.add_argument("--seed", type=int, help="of weights, batches and noise; default: 0")
    train.add_argument("--resume", action="store_true", help="go on with a run that was ended")
    train.add_argument(
        "--skip-bad", action="store_true", help="leave bad files out, instead of stopping at one"
    )
    train.set_defaults(run=_train)

    tune = commands.add_parser("tune", help="fine-tune a base with a reward, and judge it")
    tune.add_argument("--base", default="mld_early", help="as of `train`; default: %(default)s")
    tune.add_argument(
        "--method", default="EasyTune", help="or DRaFT-10, ReFL ...: a wrong one lists"
    )
    tune.add_argument("--lr", type=float, default=1e-4, help="default: %(default)s")
    tune.add_argument("--updates", type=_positive, default=100, help="default: %(default)s")
    tune.add_argument("--seed", type=int, default=0, help="of prompts and noise; default: 0")
    tune.add_argument("--n-steps", type=_positive, default=50, help="default: %(default)s")
    tune.add_argument("--batch-size", type=_positive, default=32, help="default: %(default)s")
    tune.add_argument(
        "--accumulate", type=_positive, default=1, help="gradients an update; default: %(default)s"
    )
    tune.add_argument(
        "--precision", choices=("float32", "bf16"), default="float32", help="default: %(default)s"
    )
    tune.add_argument(
        "--weights", type=Path, metavar="FOLDER", help="as `train` writes it; default: the shipped"
    )
    tune.add_argument(
        "--out", type=Path, default=Path("outputs/tuned"), help="a folder; default: %(default)s"
    )
    tune.set_defaults(run=_tune)

    checkpoint = commands.add_parser("checkpoint", help="look into a downloaded model file")
    checkpoint_commands = checkpoint.add_subparsers(required=True, metavar="COMMAND")
    inspect = checkpoint_commands.add_parser(
        "inspect", help="name model, version and sizes; say what is inside and what is missing"
    )
    convert = checkpoint_commands.add_parser(
        "convert", help="write it as safetensors, with what is known of it in a JSON file"
    )
    for each in (inspect, convert):
        each.add_argument("file", type=Path, help="as it was downloaded")
        each.add_argument(
            "--trust", action="store_true", help="run the code in it, if you know who wrote it"
        )
    inspect.set_defaults(run=_inspect)
    convert.add_argument("out", type=Path, help="a name that ends in .safetensors")
    convert.add_argument(
        "--stats", type=Path, metavar="FOLDER",
        help="of Mean.npy and Std.npy; default: where the file is",
    )  # fmt: skip
    convert.add_argument(
        "--average", action="store_true", default=None, help="take the averaged weights of an MDM"
    )
    convert.add_argument(
        "--heads", type=_positive, help="of attention; default: as many as were published"
    )
    convert.set_defaults(run=_convert)

    weights = commands.add_parser("weights", help="official models and text encoders: get them")
    weights_commands = weights.add_subparsers(required=True, metavar="COMMAND")
    listing = weights_commands.add_parser("list", help="what there is, its size and its licence")
    listing.set_defaults(run=_list)
    get = weights_commands.add_parser("get", help="download one, or say how to do it by hand")
    get.add_argument("name", help="as `easytune weights list` has it")
    get.add_argument("--to", type=Path, metavar="FOLDER", help="default: outputs/downloads/NAME")
    get.set_defaults(run=_get)

    figures = commands.add_parser("figures", help="draw all figures anew, from runs/ alone")
    figures.add_argument(
        "--venue", default="ours", metavar="NAME",
        help="ours, cvpr, iclr, neurips or siggraph: their widths; default: %(default)s",
    )  # fmt: skip
    figures.add_argument(
        "--out", type=Path, metavar="FOLDER", help="default: figures; needed with --venue"
    )
    figures.set_defaults(run=_figures)

    tables = commands.add_parser("tables", help="make all LaTeX tables anew, from runs/ alone")
    tables.add_argument("--out", type=Path, metavar="DIR", help="default: figures/tables")
    tables.set_defaults(run=_tables)

    doctor = commands.add_parser("doctor", help="what is installed, what is missing and its cost")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size", default="laptop",
        help="laptop: the defaults; full, paper, paper/mdm-kit and the like: those of the folder "
        "notebooks/parameters/SIZE; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="run what is done, too")


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _reproduce(options: argparse.Namespace) -> int:
    from easytune_lib.app.runner import reproduce

    return reproduce(options.size, options.force, options.only)


def _run(options: argparse.Namespace) -> int:
    from easytune_lib.app.runner import run_notebook

    return run_notebook(
        options.notebook, options.given, options.size, options.force, options.inplace
    )


def _html(options: argparse.Namespace) -> int:
    from easytune_lib.app.page import write_site
    from easytune_lib.app.runner import ROOT

    pages = write_site(ROOT, options.to)
    heaviest = max(page.stat().st_size for page in pages) / 1e6
    print(f"{len(pages)} pages, the heaviest of {heaviest:.1f} MB: {pages[0]}")
    return 0


def _docs(options: argparse.Namespace) -> int:
    from easytune_lib.app.docs import write_docs
    from easytune_lib.app.runner import ROOT

    pages = write_docs(ROOT, options.to)
    print(f"{len(pages)} pages, every link within them leads somewhere: {pages[0]}")
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from easytune_lib.app import sweep as sweeps
    from easytune_lib.app.notebook import find_notebooks, parameters_of, read_notebook
    from easytune_lib.app.progress import SweepTable
    from easytune_lib.app.runner import ROOT

    if Path(options.what).suffix in (".yaml", ".yml"):
        sweep = sweeps.Sweep.read(Path(options.what), ROOT)
        name = options.name or Path(options.what).stem
    else:
        path = find_notebooks([options.what], ROOT)[0]
        declared = parameters_of(read_notebook(path))
        grid = sweeps.with_seeds(sweeps.grid_of(options.grid, declared), options.seeds)
        known = {parameter.name: parameter for parameter in declared}
        content = {
            "notebook": path.stem, "size": options.size, "grid": grid, "choose": options.choose,
            "given": {n: known[n].parse(v) if n in known else v for n, v in options.given},
            "by": options.lowest or options.highest, "highest": bool(options.highest),
        }  # fmt: skip
        sweep, name = sweeps.Sweep.checked(content, ROOT), options.name or path.stem
    folder = sweeps.folder_of(name, ROOT)
    jobs = sweeps.jobs_of(sweep, folder, ROOT)
    sweep.write(folder / "sweep.yaml")
    shown, began = SweepTable(), time.perf_counter()
    if options.on == "local":
        states = sweeps.perform_all(jobs, shown, options.workers, options.force)
    else:
        cluster = {"slurm_partition": options.partition} if options.partition else {}
        if options.workers:
            cluster["slurm_array_parallelism"] = options.workers
        handed = sweeps.submit_all(
            jobs, folder, options.on, options.threads, gpus_per_node=options.gpus,
            timeout_min=options.minutes, **cluster,
        )  # fmt: skip
        shown.say(f"{len(handed)} jobs are handed over; Ctrl-C ends the watching, not the jobs")
        states = sweeps.watch(jobs, shown)
    wall, again = time.perf_counter() - began, time.perf_counter()
    states = [job.state() for job in jobs]
    again = time.perf_counter() - again
    for file in sweeps.write_results(sweeps.tidy(jobs, states), folder):
        shown.say(f"Results: {file.relative_to(ROOT)}")
    record = sweeps.record_of(sweep, jobs, states, wall, again)
    shown.chosen(record.tables["best"], sweep.choose, sweep.by)
    places = [folder, *([ROOT / "runs"] if options.record else [])]
    for place in places:
        shown.say(f"Record: {record.save(place).relative_to(ROOT)}")
    others = {state.library for state in states if state.state == "done"}
    if len(others) > 1:
        shown.say("Some jobs were done with another version of the library: --force does all again")
    return int(any(state.state == "failed" for state in states))


def _check(options: argparse.Namespace) -> int:
    from easytune_lib.data.humanml3d import NOTES, summarise

    summary = summarise(options.path)
    print(summary)
    return int(any(problem.kind not in NOTES for problem in summary.problems))


def _fetch(options: argparse.Namespace) -> int:
    from easytune_lib.data.get import get
    from easytune_lib.progress import Ticker

    to = options.to or Path("outputs/data") / options.name
    return int(bool(get(options.name, to, Ticker(every=5.0), skip_bad=options.skip_bad)))


def _import(options: argparse.Namespace) -> int:
    from easytune_lib.data.capture import RIGS, Rig
    from easytune_lib.data.get import import_folder
    from easytune_lib.progress import Ticker

    rig = RIGS.get(options.joints) or Rig.read(Path(options.joints))
    problems = import_folder(
        options.folder, rig, options.out, Ticker(every=5.0),
        caption=options.caption, skip_bad=options.skip_bad,
    )  # fmt: skip
    return int(bool(problems))


def _inspect(options: argparse.Namespace) -> int:
    from easytune_lib.extras.official.open import inspect_checkpoint

    contents = inspect_checkpoint(options.file, options.trust)
    print(contents)
    return int(bool(contents.missing))


def _convert(options: argparse.Namespace) -> int:
    from easytune_lib.data.humanml3d import read_statistics
    from easytune_lib.extras.official.open import convert_checkpoint

    stats = None if options.stats is None else read_statistics(options.stats)
    rest = {} if options.heads is None else {"heads": options.heads}
    print(
        convert_checkpoint(options.file, options.out, stats, options.trust, options.average, **rest)
    )
    return 0


def _list(options: argparse.Namespace) -> int:
    from easytune_lib.extras.weights import table

    print("\n".join(table()))
    print("~: from the number of its parameters. Get one: easytune weights get NAME")
    return 0


def _get(options: argparse.Namespace) -> int:
    from easytune_lib.extras.weights import find, get
    from easytune_lib.progress import Ticker

    find(options.name)
    to = options.to or Path("outputs/downloads") / options.name
    return int(not get(options.name, to, Ticker(every=5.0)))


def _figures(options: argparse.Namespace) -> int:
    from easytune_lib.app.figures import draw_figures
    from easytune_lib.app.runner import ROOT

    if options.venue != "ours" and options.out is None:
        raise ValueError("--venue makes other figures than those of figures/: give them an --out")
    drawn = draw_figures(ROOT / "runs", options.out or ROOT / "figures", options.venue)
    print(f"{len(drawn)} figures as PDF, SVG, PNG, CSV and JSON")
    return 0


def _tables(options: argparse.Namespace) -> int:
    from easytune_lib.app.runner import ROOT
    from easytune_lib.app.tables import make_tables

    made = make_tables(ROOT / "runs", options.out or ROOT / "figures" / "tables")
    print(f"{len(made)} tables as LaTeX")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from easytune_lib.app.doctor import examine

    findings = examine()
    for finding in findings:
        print(finding)
    return int(any(finding.needed and not finding.good for finding in findings))


@contextmanager
def _as_one(folder: Path) -> Iterator[None]:
    """Be one of the processes that torchrun started, of which the first alone prints.

    It also holds ``folder``, so that no other run works there.
    """
    from easytune_lib.distributed import is_main, together
    from easytune_lib.storage import alone

    with together():
        if is_main():
            with alone(folder, "training"):
                yield
        else:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                yield


def _tune(options: argparse.Namespace) -> int:
    from easytune_lib.distributed import own_device
    from easytune_lib.experiments.compare import Run, contestants, tuned
    from easytune_lib.progress import Ticker, spell
    from easytune_lib.workbench import WEIGHTS, open_workbench

    methods = contestants(options.n_steps)
    if options.method not in methods:
        raise ValueError(f"--method is one of {', '.join(methods)}; got {options.method!r}")
    given = {
        name: getattr(options, name)
        for name in ("base", "lr", "seed", "updates", "batch_size", "n_steps", "accumulate",
                     "precision")
    }  # fmt: skip
    with _as_one(options.out):
        bench = open_workbench(options.base, options.n_steps, weights=options.weights or WEIGHTS)
        run = Run(
            weights=bench.digest, label=options.method, method=methods[options.method], **given
        )
        ticker = Ticker(every=5.0)
        for at in tuned(bench, run, options.out, device=own_device()):
            ticker.passing(
                f"update {at.updates} of {options.updates}, reward {at.reward:.4f}, "
                f"about {spell(at.eta)} left",
                urgent=at.fraction == 1,
            )
        ticker.say(f"Tuned weights and record: {options.out / run.record_id}")
    return 0


def _train(options: argparse.Namespace) -> int:
    with _as_one(options.out / "training"):
        return _train_all(options)


def _train_all(options: argparse.Namespace) -> int:
    from easytune_lib import recipes
    from easytune_lib.distributed import own_device

    on_problem = "skip" if options.skip_bad else "raise"
    if options.what == "evaluation":
        print(recipes.prepare_evaluation(options.data, options.out, options.seed or 0))
        return 0
    names = {
        "base": (*recipes.NEEDS.get(options.base, ()), options.base),
        "reward": (recipes.REWARDS[options.noise],),
        "judge": ("judge",),
    }[options.what]
    seed = {} if options.seed is None else {"seed": options.seed}
    for name in names:
        file = options.out / f"{name}.safetensors"
        if name != names[-1] and file.exists():
            print(f"{name}: {file} is there already")
            continue
        _refuse_leftover(options.out / "training" / f"{name}.safetensors", options.resume)
        rest = {"out": options.out, "steps": options.steps, "on_problem": on_problem, **seed}
        rest["device"] = own_device()
        if options.what == "base":
            how = {name: getattr(options, name) for name in ("precision", "accumulate")}
            steps = recipes.train_base(name, options.data, **how, **rest)
        elif options.what == "reward":
            how = {
                name: getattr(options, name)
                for name in ("noise", "buckets", "precision", "accumulate")
            }
            steps = recipes.train_reward(options.data, **how, **rest)
        else:
            steps = recipes.train_judge(options.data, **rest)
        _watch(name, steps)
        print(f"{name}: {file}")
    return 0


def _refuse_leftover(state: Path, resume: bool) -> None:
    if state.exists() and not resume:
        raise ValueError(
            f"{state} holds the state of an earlier run: go on with it by --resume, or remove it"
        )


def _watch(name: str, steps: "Iterator[TrainingStep]") -> None:
    """Train, and say how far it is and how long it takes."""
    from easytune_lib.progress import Ticker, spell

    ticker = Ticker(every=5.0)
    ticker.say(f"{name}: reading data and captions")
    loss = None
    for step in steps:
        loss = step.loss if loss is None else 0.98 * loss + 0.02 * step.loss
        ticker.passing(
            f"{name}: step {step.step} of {step.steps}, loss {loss:.4f}, "
            f"{step.pace:.2f} s a step, "
            f"about {spell(step.eta)} left",
            urgent=step.step == step.steps,
        )
    ticker.say("")
