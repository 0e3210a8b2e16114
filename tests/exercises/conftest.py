import pytest


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    """No test touches the progress of who runs it."""
    monkeypatch.setenv("TLCOURSE_PROGRESS", str(tmp_path / "progress.json"))
