from services.agent_runner.retention import forget_pages


def profile(folder):
    for name in ("History", "Cookies", "Cache/data_1", "Local Storage/leveldb/1", "Sessions/Tabs"):
        path = folder / "Default" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("planted")
    return folder


def names(folder):
    return {path.name for path in folder.glob("Default/*")}


def test_what_a_browser_kept_of_pages_goes_and_logins_stay(tmp_path):
    folder = profile(tmp_path / "p")
    forget_pages(folder, everything=False)
    assert names(folder) == {"Cookies", "Local Storage"}
    forget_pages(folder, everything=True)
    assert not folder.exists()
    forget_pages(folder, everything=True)
