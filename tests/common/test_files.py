from recovery.common.files import empty_folder


def test_a_folder_is_empty_and_private_whatever_lay_there(tmp_path):
    folder = tmp_path / "a" / "b"
    assert empty_folder(folder) == folder
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_text("of an earlier attempt")
    folder.chmod(0o755)
    empty_folder(folder)
    assert (list(folder.iterdir()), folder.stat().st_mode & 0o777) == ([], 0o700)
