"""check_includes.py against small trees that break one rule each, and against this repository."""

import pytest

import check_includes

COMMUNICATOR = {"comms/communicator.h": "#pragma once\n#include <string>\n"}


def complaints(tmp_path, files):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(check_includes.problems(check_includes.includes(tmp_path), tmp_path))


@pytest.mark.parametrize(
    "file, include",
    [
        ("comms/mpi.cc", '#include "comms/communicator.h"'),
        ("trainer/weights/frozen_store.h", '#include "comms/communicator.h"'),
        ("trainer/trainer.cc", '#include "comms/communicator.h"'),
        ("launcher/commands/train.cc", '#include "comms/communicator.h"'),
        ("tests/unit/comms/local_test.cc", '#include "comms/communicator.h"'),
        ("configs/yaml_tree.cc", "#include <yaml-cpp/yaml.h>"),
        ("monitoring/metrics.cc", "#include <prometheus/registry.h>"),
        ("comms/world.cc", "#include <mpi.h>"),
        ("comms/nccl.cc", "#include <nccl.h>"),
        ("comms/local.cc", "#include <ATen/ATen.h>"),
        ("trainer/text/ffi/bridge.h", '#include "trainer/text/ffi/bridge.h"'),
        ("trainer/model/linear.h", "#include <ATen/core/Tensor.h>"),
        ("base/file.cc", '// #include "launcher/main.h"'),
    ],
)
def test_an_allowed_include_passes(tmp_path, file, include):
    assert complaints(tmp_path, {**COMMUNICATOR, file: include + "\n"}) == []


@pytest.mark.parametrize(
    "file, include, complaint",
    [
        ("base/file.cc", '#include "comms/communicator.h"', "base may include nothing"),
        ("monitoring/metrics.h", '#include "comms/communicator.h"', "monitoring may include base;"),
        ("trainer/text/tokenizer.h", '  #  include "comms/communicator.h"', "trainer/text may include base"),
        ("comms/local.h", '#include "communicator.h"', "is no room/file.h"),
        ("comms/local.h", '#include "../comms/communicator.h"', "is no room/file.h"),
        ("comms/local.h", "#include <comms/communicator.h>", "write it in quotes"),
        ("comms/local.h", '#include "comms/communicater.h"', "does not exist"),
        ("trainer/novelty/idea.h", '#include "comms/communicator.h"', "trainer/novelty/idea.h is in no room"),
        ("configs/run_config.h", "#include <yaml-cpp/yaml.h>", "yaml-cpp belongs to configs/yaml_tree.cc alone"),
        ("launcher/main.cc", "#include <yaml-cpp/yaml.h>", "yaml-cpp belongs"),
        ("monitoring/metrics.h", "#include <prometheus/registry.h>", "prometheus-cpp belongs"),
        ("trainer/trainer.cc", "#include <mpi.h>", "MPI belongs to comms/world.cc, comms/mpi.cc alone"),
        ("comms/mpi.cc", "#include <nccl.h>", "NCCL belongs"),
        ("comms/communicator.h", "#include <ATen/core/Tensor.h>", "LibTorch belongs"),
        ("base/hash.cc", "#include <c10/util/Half.h>", "LibTorch belongs"),
        ("trainer/trainer.cc", "#include <torch/torch.h>", "half a minute"),
        ("tests/unit/model/norm_test.cc", "#include <torch/nn.h>", "half a minute"),
    ],
)
def test_a_forbidden_include_is_named_with_its_place(tmp_path, file, include, complaint):
    found = complaints(tmp_path, {**COMMUNICATOR, file: f"#pragma once\n{include}\n"})
    assert len(found) == 1
    assert found[0].startswith(f"{file}:2: ")
    assert complaint in found[0]


def test_the_arrows_have_no_cycle():
    left = dict(check_includes.ARROWS)
    while left:
        free = [room for room, below in left.items() if not below & left.keys()]
        assert free, f"a cycle among {sorted(left)}"
        for room in free:
            del left[room]


def test_a_folder_without_sources_is_an_error(tmp_path, capsys):
    assert check_includes.main([str(tmp_path)]) == 1
    assert "no sources" in capsys.readouterr().err


def test_this_repository_keeps_its_own_rules(capsys):
    assert check_includes.main([]) == 0, capsys.readouterr().out
