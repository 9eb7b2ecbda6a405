"""Processes of one training find each other, and say who does not answer."""

import logging
import socket
import time

import pytest
import torch
from torch import distributed

from fuxictr_multimodal.errors import ConfigError, RankLost
from fuxictr_multimodal.system import rank_board, ranks
from tests.helpers.forked_ranks import run_forked


def test_one_that_does_not_answer_is_named_with_the_setting_in_the_group_of_layers_too():
    def body(rank):
        try:
            with ranks.joined(timeout_seconds=1):
                group = ranks.layer_group()
                if rank == 1:
                    time.sleep(3)
                    return None
                begun = time.monotonic()
                with pytest.raises(RuntimeError):
                    distributed.all_reduce(torch.ones(1), group=group)
                assert time.monotonic() - begun < 2.5
                # gloo has other words for what comes after.
                distributed.all_reduce(torch.ones(1), group=group)
        except RankLost as error:
            return str(error)

    assert "the setting rank_timeout" in run_forked(2, body)[0]


@pytest.mark.parametrize(
    "text",
    ["Application timeout caused pair closure", "[gloo/unbound_buffer.cc:81] Timed out waiting 10000ms for recv"],
)
def test_every_text_of_a_timeout_is_known(text, monkeypatch):
    monkeypatch.setattr(rank_board, "REASON_SECONDS", 0)
    monkeypatch.setattr(rank_board, "ignore_signals", lambda: None)
    own = rank_board.Board(distributed.HashStore(), 0, 2)
    with pytest.raises(RankLost, match="rank_timeout"), rank_board.losses_named(lambda: own):
        raise RuntimeError(text)


def test_ranks_that_do_not_start_are_named(monkeypatch, caplog):
    monkeypatch.setattr(rank_board, "QUIET_SECONDS", 0)
    with pytest.raises(ConfigError, match=r"^ranks 1, 2 did not start within 0 s"):
        rank_board.Board(distributed.HashStore(), 0, 3).meet("launch", seconds=0.2)
    assert caplog.messages == ["rank 0 waits for ranks 1, 2"]


def test_an_address_that_nobody_answers_at_is_named(monkeypatch, caplog):
    monkeypatch.setattr(rank_board, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(rank_board, "START_SECONDS", 1)
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        port = str(unheard.getsockname()[1])
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", port)
        with caplog.at_level(logging.WARNING), pytest.raises(ConfigError, match=f"MASTER_PORT 127.0.0.1:{port} "):
            rank_board.board(1, 2)
        # The error's line is not printed after a second wait.
        begun = time.monotonic()
        with pytest.raises(ConfigError, match=port):
            rank_board.board(1, 2)
        assert time.monotonic() - begun < 0.5
    assert f"127.0.0.1:{port}" in caplog.messages[0]
