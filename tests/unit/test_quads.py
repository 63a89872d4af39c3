"""Taking a lab over from QUADS: what becomes of its hosts, environments and VLANs, and what is left out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from leasehold import config, quads
from leasehold.errors import Invalid
from leasehold.quads import Imported, Json
from tests.unit.quads_answers import ANSWERS, cloud, host


@pytest.fixture
def found() -> Imported:
    return quads.read(ANSWERS)


def names(found: Imported) -> dict[str, list[str]]:
    return {pool["name"]: [one["name"] for one in pool["resources"]] for pool in found.pools}


def test_hosts_of_one_model_become_a_pool_beside_those_of_clouds_and_vlans(found: Imported) -> None:
    assert names(found) == {
        "r640": ["host01.example.com", "host04.example.com"],
        "r750": ["host02.example.com"],
        "5039-ms-2": ["host05.example.com"],
        "cloud": ["cloud02", "cloud03"],
        "vlan": ["620", "621"],
    }


def test_a_host_keeps_all_that_is_known_of_it_and_nothing_of_what_quads_does_with_it(found: Imported) -> None:
    assert found.pools[0]["resources"][0]["properties"] == {
        "bootmode": "Uefi",
        "host_type": "scalelab",
        "model": "R640",
        "rack": "a1",
        "uloc": "u12",
        "default_cloud": "cloud01",
        "disks": [{"count": 2, "disk_type": "nvme", "size_gb": 2000}],
        "interfaces": [
            {
                "mac_address": "aa:bb:cc:dd:ee:ff",
                "maintenance": False,
                "name": "em1",
                "pxe_boot": True,
                "speed": 25,
                "switch_ip": "10.1.34.235",
                "switch_port": "xe-0/0/8:0",
                "vendor": "Mellanox Technologies",
            }
        ],
        "memory": [{"handle": "DIMM_A1", "size_gb": 32}],
        "processors": [
            {
                "cores": 20,
                "handle": "P0",
                "processor_type": "CPU",
                "product": "Xeon",
                "threads": 40,
                "vendor": "Intel",
            }
        ],
    }


def test_a_host_that_only_admins_schedule_is_not_for_self_service(found: Imported) -> None:
    properties = found.pools[1]["resources"][0]["properties"]
    assert properties["self_service"] is False
    assert "disks" not in properties


def test_a_vlan_keeps_its_addresses(found: Imported) -> None:
    assert found.pools[-1]["resources"][0] == {
        "name": "620",
        "properties": {
            "gateway": "10.1.49.254",
            "ip_free": 510,
            "ip_range": "10.1.48.0/23",
            "netmask": "255.255.254.0",
        },
    }


def test_what_is_left_out_is_said_with_why(found: Imported) -> None:
    assert found.left_out == [
        "host host03.example.com: it is retired",
        "host no host at all: it has no name that can be used",
        "host host01.example.com: there is another of this name",
        "hosts[7]: it is no record",
        "cloud cloud01: it is where QUADS keeps hosts that nobody has",
        "cloud cloud03: there is another of this name",
    ]
    assert found.broken == [("r640", "host04.example.com")]


def test_another_spare_environment(found: Imported) -> None:
    assert "cloud01" in names(quads.read(ANSWERS, "cloud02"))["cloud"]


def test_a_model_called_like_the_pool_of_clouds() -> None:
    assert names(quads.read([host("a", 1, model="Cloud"), host("b", 2, model=None)])) == {
        "hosts-cloud": ["a"],
        "hosts": ["b"],
    }


@pytest.mark.parametrize("answers", [None, 1, "hosts", {}, {"hosts": {}}, {"message": "Unauthorized"}])
def test_what_is_no_answer_of_quads(answers: Any) -> None:
    with pytest.raises(Invalid, match="no answer of QUADS"):
        quads.read(answers)


@pytest.mark.parametrize("answers", [ANSWERS, ANSWERS["hosts"], {"clouds": [cloud(2)]}, []])
def test_the_file_is_a_pools_file_that_says_the_same(answers: Any) -> None:
    pools = quads.read(answers).pools
    text = quads.to_yaml(pools)
    assert YAML(typ="safe").load(text) == {"name": "quads", "pools": pools}
    inventory = config.load_yaml(text.encode())
    assert (inventory.name, len(inventory.pools)) == ("quads", len(pools))


WORD = st.text(max_size=20) | st.sampled_from(
    ["no", "null", "1e3", "\x7f", "\u2028", "\N{ROCKET}", "a: b", "#", '"', "\\"]
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(WORD, VALUE, max_size=4))
def test_any_property_is_read_again_as_it_was(properties: Json) -> None:
    pools = [{"name": "r640", "description": "", "resources": [{"name": "a", "properties": properties}]}]
    (read,) = YAML(typ="safe").load(quads.to_yaml(pools))["pools"][0]["resources"]
    assert read.get("properties", {}) == properties
