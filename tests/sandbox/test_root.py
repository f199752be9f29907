"""The plan of the root that sandboxes stand in."""

from enclave.sandbox import root, template


def test_only_the_runtime_and_five_devices_come_from_the_host() -> None:
    plan = root.plan(["/usr"], {})

    paths = {bind.path for bind in plan.binds}
    assert {path for path in paths if not path.startswith(("/usr/", "/dev/", "/lib", "/bin", "/sbin"))} == set()
    assert {path for path in paths if path.startswith("/dev/")} == {f"/dev/{name}" for name in root.DEVICES}
    assert "/usr/local" not in paths


def test_an_interpreter_outside_the_system_brings_its_own_prefix() -> None:
    assert root.Bind("/usr/lib") in root.plan(["/usr/lib"], {}).binds


def test_etc_says_nothing_of_the_host() -> None:
    plan = root.plan(["/usr"], {})

    invented = {path: plan.files[path] for path in plan.files if path.removeprefix("/etc/") in root.ETC}
    assert invented == {f"/etc/{name}": text.encode() for name, text in root.ETC.items()}
    assert set(plan.files) - set(invented) <= {f"/etc/{name}" for name in root.COPIED}


def test_alternatives_lead_into_the_runtime_and_nowhere_else() -> None:
    links = {path: to for path, to in root.plan(["/usr"], {}).links.items() if path.startswith("/etc/alternatives/")}

    assert {path: to for path, to in links.items() if not to.startswith("/usr/")} == {}


def test_a_template_is_bound_and_linked_to() -> None:
    plan = root.plan(["/usr"], {}, root.Extras("/kept/one", links=template.NODE_LINKS))

    assert root.Bind("/kept/one", elsewhere="/opt/template") in plan.binds
    assert plan.links["/node_modules"] == "/opt/template/node_modules"
