"""How the code is laid out, read from source text: nothing is imported here.

A module may import only from layers below its own. Imports for type checkers alone do not count.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (  # Lowest first; what stands in one line does not know of each other.
    "asap_deploy.errors asap_deploy.rotation asap_deploy.protobuf asap_deploy.realtime "
    "asap_deploy.shared",
    "asap_deploy.npz asap_deploy.onnx_ops asap_deploy.mcap_file asap_deploy.twin_wire "
    "asap_deploy.link",
    "asap_deploy.unitree_codec",
    "asap_deploy.motion asap_deploy.log asap_deploy.observation asap_deploy.onnx_graph "
    "asap_deploy.frames asap_deploy.keys asap_deploy.unitree_dds",
    "asap_deploy.contract asap_deploy.log_writer asap_deploy.handover asap_deploy.link_twin "
    "asap_deploy.link_unitree",
    "asap_deploy.policy asap_deploy.links asap_deploy.recording",
    "asap_deploy.runtime asap_deploy.safety asap_deploy.recorder",
    "asap_deploy.golden asap_deploy.guards asap_deploy.states asap_deploy.listen",
    "asap_deploy.supervisor asap_deploy.preflight",
    "asap_deploy.supervised",
    "asap_deploy.loop",
    "asap_deploy.ladder",
    "asap_deploy.cli",
    "asap.results asap.safe_pickle asap.shipped asap.onnx_file asap.robot_file asap.camera "
    "asap.curriculum asap.live_views asap.tangent asap.sensor_noise asap.spans",
    "asap.learned asap.robot_mjcf asap.motion_formats asap.log_columns asap.log_cdr asap.picture",
    "asap.robot_spec asap.log_csv asap.log_ros asap.log_clean asap.recording",
    "asap.robot_fields asap.robot_soles asap.log_tables asap.robot_check "
    "asap.log_recording asap.twin_faults",
    "asap.robot asap.log_channels",
    "asap.sim_protocol",
    "asap.grounding asap.log_asap asap.motion_orders asap.log_check_view asap.metrics "
    "asap.rollout asap.sim_spec asap.bullet_urdf asap.bullet_delay",
    "asap.motions asap.log_import asap.sim asap.log_timing asap.log_check_delay asap.tracking "
    "asap.sheet asap.visualize asap.bench_results asap.motion_plan asap.inverse_dynamics "
    "asap.bullet_world",
    "asap.bullet",
    "asap.planted",
    "asap.choreography asap.log_check_step asap.dynamics_check asap.rewards asap.policy asap.twin",
    "asap.twin_robot asap.reference_rows",
    "asap.twin_server",
    "asap.twin_dds",
    "asap.log_check_joint_delay asap.log_check_action asap.log_check_swaps",
    "asap.motion_check asap.variation asap.log_check_base asap.log_check_order asap.log_signals "
    "asap.log_gains asap.export asap.evaluate asap.bench asap.whole_body",
    "asap.inputs asap.randomize asap.walk asap.log_check asap.balance asap.bench_integrators "
    "asap.momentum_fit asap.starts asap.record asap.log_states asap.warm_start asap.linearise "
    "asap.planted_standing",
    "asap.env asap.regulator asap.log_windows asap.parameters asap.correction",
    "asap.replay asap.log_split asap.identify asap.published asap.make_motions asap.mend_motion "
    "asap.motion_rollout asap.vecenv asap.imitate asap.curves asap.checkpoint asap.teacher",
    "asap.random_motions asap.rough_motions asap.teacher_start",
    "asap.ppo asap.teachers",
    "asap.training_run",
    "asap.train asap.teach",
    "asap.judge asap.bands asap.misfit asap.delta_env",
    "asap.parameter_search asap.delta_fit asap.grid asap.dynamics_residual",
    "asap.exploits asap.parameter_claims",
    "asap.delta_ppo",
    "asap.fit_methods",
    "asap.cli_common asap.bench_train asap.bench_gap asap.replay_view asap.closed_loop "
    "asap.fit asap.next_motion asap.bench_logs asap.sysid_check",
    "asap.cli_progress asap.finetune asap.fit_files asap.stages",
    "asap.delta_doubt asap.posttrain.episode asap.posttrain.graph_net asap.posttrain.rebuilt "
    "asap.posttrain.robots",
    "asap.posttrain.task asap.posttrain.residual_onnx asap.posttrain.tuned_policy "
    "asap.posttrain.actors",
    "asap.posttrain.humanoid asap.posttrain.views asap.posttrain.corridor asap.posttrain.collect "
    "asap.posttrain.consistency",
    "asap.posttrain.soft_q asap.posttrain.regress asap.posttrain.operators asap.posttrain.looks "
    "asap.posttrain.log_episodes "
    "asap.posttrain.grape asap.posttrain.physics_gap asap.posttrain.tuning",
    "asap.posttrain.rlpd asap.posttrain.on_policy asap.posttrain.rldg",
    "asap.posttrain.student asap.posttrain.hil asap.posttrain.ire asap.posttrain.conrft",
    "asap.posttrain.conrft_miniature asap.cli_tune_common",
    "asap.posttrain.miniatures",
    "asap.align_judge asap.align_config asap.align_words asap.bench_fit",
    "asap.align asap.align_blocks asap.align_charts",
    "asap.bench_align asap.align_parameters",
    "asap.align_page asap.gap_page",
    "asap.cli_bench asap.cli_data asap.cli_fit asap.cli_logs asap.cli_motions asap.cli_policy "
    "asap.cli_train asap.cli_twin",
    "asap.cli_align asap.cli_bench_logs asap.cli_teach asap.cli_tune "
    "asap.cli_bench_posttrain asap.cli_tune_rldg",
    "asap.cli_bench_align",
    "asap.cli",
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}
ON_THE_ROBOT = {"numpy", "onnxruntime", "asap_deploy"}
"""What asap_deploy may import besides the standard library."""

EXTRAS = {"asap_deploy.unitree_dds": {"cyclonedds"}}
"""What one file may import as well, when it is used."""

CODE = {"pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib"}
"""Modules that run what a file says."""

FILE_LINES, TEST_FILE_LINES, FUNCTION_LINES = 400, 500, 60

SOURCES = sorted([*(ROOT / "asap").rglob("*.py"), *(ROOT / "deploy" / "asap_deploy").rglob("*.py")])
ROBOT_SOURCES = [path for path in SOURCES if path.parent.name == "asap_deploy"]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def module_of(path: Path) -> str:
    """The dotted name under which a source file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[1:] if parts[0] == "deploy" else parts)


def _is_for_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports_of(path: Path) -> set[str]:
    """Every dotted name that a file imports when it runs, at any depth of nesting."""
    names: set[str] = set()
    left: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif not _is_for_types_alone(node):
            left.extend(ast.iter_child_nodes(node))
    return names


def project_module(name: str) -> str | None:
    """The module of ours that a dotted name lies in; None for others and for a whole package."""
    parts = name.split(".")
    module = ".".join(parts[: 3 if parts[1:2] == ["posttrain"] else 2])
    return module if name.startswith(("asap.", "asap_deploy.")) else None


def id_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_module_has_its_layer_and_every_layer_its_modules():
    modules = {module_of(path) for path in SOURCES} - {
        "asap.__init__", "asap_deploy.__init__", "asap.posttrain.__init__"}  # fmt: skip
    unknown = {other for path in SOURCES for name in imports_of(path)
               if (other := project_module(name)) and other not in modules}  # fmt: skip
    assert unknown <= {"asap.__version__"}, f"imported and not there: {sorted(unknown)}"
    assert modules <= set(LEVEL), f"add it to LAYERS: {sorted(modules - set(LEVEL))}"
    assert set(LEVEL) <= modules, f"remove it from LAYERS: {sorted(set(LEVEL) - modules)}"


@pytest.mark.parametrize("path", SOURCES, ids=id_of)
def test_imports_point_down(path):
    own = module_of(path)
    for name in imports_of(path):
        other = project_module(name)
        if other is None or other == own or name == "asap.__version__":
            continue
        if own in LEVEL and other in LEVEL:  # the test above names those that are not
            assert LEVEL[other] < LEVEL[own], f"{own} imports {other}, which is not below it"


def test_an_import_upwards_or_sideways_would_be_noticed(tmp_path):
    """The rule itself, on a file that breaks it."""
    file = tmp_path / "bad.py"
    file.write_text("if True:\n    from asap.sim import CpuSimulation\nimport asap.robot\n")
    assert imports_of(file) == {"asap.sim.CpuSimulation", "asap.robot"}
    assert project_module("asap.sim.CpuSimulation") == "asap.sim"
    assert LEVEL["asap.sim"] > LEVEL["asap.robot"] > LEVEL["asap_deploy.golden"]
    file.write_text("if TYPE_CHECKING:\n    import asap.robot\n")
    assert imports_of(file) == set()


@pytest.mark.parametrize("path", ROBOT_SOURCES, ids=id_of)
def test_what_runs_on_the_robot_needs_numpy_and_onnxruntime_alone(path):
    for name in imports_of(path):
        top, more = name.split(".")[0], EXTRAS.get(module_of(path), set())
        assert top in ON_THE_ROBOT | more or top in sys.stdlib_module_names, f"imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=id_of)
def test_nothing_imports_a_module_that_runs_what_a_file_says(path):
    assert not {name.split(".")[0] for name in imports_of(path)} & CODE
    # eval, exec, __import__ and compile have no place here either.
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    assert not names & {"eval", "exec", "__import__", "compile"}


@pytest.mark.parametrize("path", SOURCES, ids=id_of)
def test_numpy_and_torch_read_no_pickles_anywhere(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            assert call not in {"np.load", "numpy.load"}, "use asap_deploy.npz.load_npz"
            if call == "torch.load":
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert keywords.get("weights_only") == "True"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=id_of)
def test_no_file_is_too_long(path):
    limit = TEST_FILE_LINES if path in TESTS else FILE_LINES
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= limit, f"{lines} lines, at most {limit}: split it by meaning"


@pytest.mark.parametrize("path", SOURCES, ids=id_of)
def test_no_function_is_too_long(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        assert lines <= FUNCTION_LINES, f"{node.name} has {lines} lines, at most {FUNCTION_LINES}"


@pytest.mark.parametrize("path", ROBOT_SOURCES, ids=id_of)
def test_what_runs_on_the_robot_has_the_syntax_of_python_3_8(path):
    source = path.read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 8))
    assert "from __future__ import annotations" in source or not imports_of(path)
    # Annotations are not evaluated, but subscripts of builtins and unions elsewhere are.
    tree = ast.parse(source)
    annotations = {
        id(part)
        for node in ast.walk(tree)
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if annotation is not None
        for part in ast.walk(annotation)
    }
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Match), "match needs Python 3.10"
        if id(node) in annotations or not isinstance(node, ast.Subscript):
            continue
        builtins = {"list", "dict", "tuple", "set", "frozenset", "type"}
        generic = isinstance(node.value, ast.Name) and node.value.id in builtins
        assert not generic, f"line {node.lineno}: builtins have no subscripts before Python 3.9"


def test_python_3_8_itself_compiles_what_runs_on_the_robot(tmp_path):
    python = shutil.which("python3.8")
    works = python and subprocess.run([python, "--version"], capture_output=True).returncode == 0
    if not works:
        pytest.skip("no python3.8 here: its own compiler is NOT asked, the syntax is still checked")
    copy = shutil.copytree(ROOT / "deploy" / "asap_deploy", tmp_path / "asap_deploy")
    subprocess.run([python, "-m", "compileall", "-q", str(copy)], check=True)


def test_vermin_finds_nothing_newer_than_python_3_8_on_the_robot():
    vermin = shutil.which("vermin", path=str(Path(sys.executable).parent)) or shutil.which("vermin")
    if vermin is None:
        pytest.skip("vermin is not installed: newer library calls are NOT looked for")
    command = [vermin, "-t=3.8-", "--no-tips", "--violations", str(ROOT / "deploy/asap_deploy")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:]
