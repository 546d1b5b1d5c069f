"""The sweep: what differs between its settings, and what its table says of runs whose numbers are known."""

import csv
import json

import made_up
import pytest
from made_up import evaluate, experiment, outcomes_of, train
from test_plan import settings_of

from reproduction import stability, stability_table
from reproduction.experiment import remember
from reproduction.plan import STABILITY, plan
from reproduction.report import report

any_number_of_images = made_up.any_number_of_images

HEADER = (
    "epoch,natural_accuracy,robust_accuracy,score,largest_class,logit_norm,natural_mi_of_adversarial_W,natural_mi_of_adversarial_W_deviation,"
    "adversarial_mi_of_adversarial_W,adversarial_mi_of_adversarial_W_deviation,gradient_adv,gradient_mi,gradient_mi_natural,"
    "gradient_mi_adversarial,gradient_mi_difference"
)


def record(graph, name, *rows):
    """metrics.csv of a run: for each epoch score, largest class, logit norm, natural MI and deviation, gradients of L_adv and alpha L_mi."""
    lines = [
        f"{i},50,50,{score},{largest},{logits},{mi},{deviation},,,{adv},{ratio},{ratio},0,0"
        for i, (score, largest, logits, mi, deviation, adv, ratio) in enumerate(rows, 1)
    ]
    (graph.nodes[name].folder / "metrics.csv").write_text("\n".join([HEADER, *lines, ""]))


@pytest.fixture
def measured(tmp_path):
    """Two seeds of standard AT and of the paper's alpha, and one of alpha 1."""
    graph = plan(experiment(tmp_path, dataset="digits", scale="sweep", seeds=2), STABILITY)
    for seed in (1, 2):
        for run, right in (
            (f"seed{seed}/linf/standard", 20 + seed),
            (f"seed{seed}/stability/paper", 10),
            (f"seed{seed}/stability/alpha-1", 22),
        ):
            if "alpha-1" in run and seed == 2:
                continue
            for each in graph.nodes[run].needs:
                if graph.state(each) == "not run":
                    train(graph, each)
            train(graph, run)
            record(
                graph,
                run,
                (60, 0.1, 5, 1.5, 0.5, 1, 2),
                *(
                    [(20, 0.95, 30, 400, 100, 0.5, 4)]
                    if run.endswith("paper")
                    else [(50, 0.1, 6, 2, 0.5, 1, 1)]
                ),
            )
            evaluate(
                graph,
                f"{run}/white.json",
                {"none": outcomes_of(30, 40), "pgd-40": outcomes_of(right, 40)},
            )
    return graph


def test_what_the_table_says(measured):
    rows = {row["name"]: row for row in stability_table.rows_of(measured)}
    assert list(rows) == [*stability.BASELINES, *stability.SETTINGS]
    paper = rows["paper"]
    assert (
        paper["cells"]["pgd-40"].mean == 25
        and paper["difference"] == pytest.approx(25 - (52.5 + 55) / 2)
        and paper["collapsed"] == (2, 2)
    )
    assert paper["interval"][1] < 0 and rows["alpha-1"]["collapsed"] == (0, 1)
    assert (
        paper["records"][1]
        | {
            "natural_mi_W": 400.0,
            "natural_mi_W_deviation": 100.0,
            "ratio_mi": 8.0,
            "ratio_mi_natural": 8.0,
            "held_out_score": 60.0,
            "last_score": 20.0,
            "largest_class": 0.95,
            "logit_norm": 30.0,
        }
        == paper["records"][1]
    )
    texts = stability_table.texts(paper, 2)
    assert texts[:3] == ["alpha 5 (paper)", "75.0 ± 0.0", "25.0 ± 0.0"] and texts[5:] == [
        "2 of 2",
        "30",
        "8",
        "8, 0, 0",
        "400 ± 100",
        "",
    ]
    assert (
        stability_table.texts(rows["alpha-1"], 2)[2] == "55.0 (39.8 to 69.3) [1 of 2 seeds]"
        and stability_table.texts(rows["nce"], 2)[1:3] == ["not run"] * 2
    )


def test_a_run_that_diverged_has_collapsed(measured):
    measured.nodes["seed2/stability/paper"].diverged_note.write_text("")
    row = next(row for row in stability_table.rows_of(measured) if row["name"] == "paper")
    assert (
        row["collapsed"] == (2, 2)
        and list(row["records"]) == [1]
        and stability_table.texts(row, 2)[5] == "2 of 2"
    )


def test_its_files(measured):
    content = stability_table.write(measured)
    root = measured.experiment.root
    assert json.loads((root / "tables/stability.json").read_text()) == content
    page = (root / "tables/stability.md").read_text()
    assert (
        "| alpha 5 (paper) | 75.0 ± 0.0 | 25.0 ± 0.0 |" in page
        and "n = 40 test images" in page
        and "an abacus" in page
    )
    with open(root / "tables/stability.csv", newline="") as file:
        lines = {(line["setting"], line["seed"]): line for line in csv.DictReader(file)}
    assert (
        float(lines["paper", "2"]["pgd-40"]) == 25
        and ("alpha-1", "2") not in lines
        and lines["paper", "1"]["largest_class"] == "0.95"
    )
    assert (root / "figures/stability.png").read_bytes()[:4] == b"\x89PNG" and (
        root / "figures/stability.pdf"
    ).read_bytes()[:4] == b"%PDF"


def test_the_report_of_a_sweep_alone_has_standard_at(measured):
    """The tables ask for more attacks of the same network, which nobody ran here."""
    remember(measured.experiment)
    page = report(measured.experiment.out).read_text()
    content = json.loads((measured.experiment.root / "tables/stability.json").read_text())
    assert content["rows"][0][:3] == ["standard AT", "75.0 ± 0.0", "53.8 ± 1.8"] and content[
        "rows"
    ][5][3].startswith("-28.8 (")
    assert (
        'id="digits-sweep/seed1/linf/standard"' in page
        and 'id="digits-sweep/seed1/linf/standard/white.json"' in page
    )


def test_only_the_settings_own_divergence_counts(measured):
    for name in ("standard-estimators-nce", "standard-batch40"):
        node = measured.nodes[f"seed1/stability/{name}"]
        node.folder.mkdir(parents=True, exist_ok=True)
        node.diverged_note.write_text("")
    rows = {row["name"]: row for row in stability_table.rows_of(measured)}
    assert rows["nce"]["collapsed"] == rows["batch-40"]["collapsed"] == (0, 0)


def test_nothing_run_writes_nothing(tmp_path):
    graph = plan(experiment(tmp_path), STABILITY)
    assert stability_table.write(graph) is None and not graph.experiment.root.exists()


def test_each_setting_differs_from_the_papers_in_what_its_name_says(tmp_path):
    graph = plan(experiment(tmp_path, scale="full", seeds=3), STABILITY)
    said = {
        name: settings_of(graph.nodes[f"seed3/stability/{name}"].words)
        for name in stability.SETTINGS
    }
    paper = said["paper"]
    assert (paper.alpha, paper.lam, paper.warmup_epochs, paper.alpha_ramp, paper.training.seed) == (
        5,
        0.1,
        2,
        0,
        3,
    )
    estimators = {
        name: settings_of(graph.nodes[f"seed3/stability/standard-estimators-{name}"].words)
        for name in stability.ESTIMATORS
        if name != "base"
    }
    for name, changed in {
        "alpha-0.1": ("alpha", 0.1),
        "lambda-0": ("lam", 0),
        "warm-up-0": ("warmup_epochs", 0),
        "ramp": ("alpha_ramp", 10),
    }.items():
        assert getattr(said[name], changed[0]) == changed[1] != getattr(paper, changed[0])
        assert said[name].estimators.estimator_dir == paper.estimators.estimator_dir
    for name, setting in stability.SETTINGS.items():
        assert said[name].estimators.estimator_dir.name == "standard-estimators" + (
            f"-{setting.estimators}" if setting.estimators != "base" else ""
        )
        assert (said[name].init is not None) == setting.init and said[name].training.batch_size == (
            40 if "40" in name else 1024
        )
    assert (
        estimators["units2048"].estimation.n_units == 2048
        and estimators["nce"].estimation.bound == "nce"
    )
    assert (
        estimators["dv-scaled"].estimation.scale_scores
        and estimators["dv-scaled"].estimation.bound == "dv"
    )
    assert (
        estimators["difference"].objective == "difference"
        and estimators["epochs25"].training.epochs == 25
    )
    assert not hasattr(estimators["maximum"], "objective")


def test_merged_options():
    assert stability.merged("--a 1 --b 2", "--b 3 --c") == "--a 1 --b 3 --c"
