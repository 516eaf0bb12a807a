"""The benchmark of forms, tried with narrow models."""

import json

from benchmarks.forms import main


def test_the_clock_is_compared_with_the_flops(registered, tmp_path, monkeypatch, capsys):
    # What it applies and switches off is for a process of its own.
    monkeypatch.setattr("logging.disable", lambda level: None)
    how = ["--small", "--models", "blendmask-18", "--levels", "0.5", "--forms", "eager", "deployed"]
    main([*how, "--runs", "1", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "blendmask-18.json").read_text())
    assert [(row["model"], row["form"]) for row in found["rows"]] == [
        ("dense", "eager"),
        ("dense", "deployed"),
        ("2x", "eager"),
        ("2x", "deployed"),
    ]
    printed = " ".join(capsys.readouterr().out.split())
    row = found["rows"][3]
    assert f"{row['speedup'] * row['flops']:.2f} |" in printed and "## blendmask-18" in printed
