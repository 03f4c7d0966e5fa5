"""How the names of uploaded files are cleaned."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorchat.blobs.filenames import MAX_NAME_BYTES, clean_filename, extension_of

NAMES = {
    "x.exe\u200d": "x.exe",
    "\u200c.\u200d": "file",
    "gold sphere_2.gif": "gold sphere_2.gif",
    "../../etc/passwd": "passwd",
    "C:\\Users\\Ann\\photo.JPG": "photo.JPG",
    "/": "file",
    "": "file",
    "..": "file",
    ".htaccess": "htaccess",
    "a\0b\r\nc\tд.txt": "abcд.txt",
    "invoice\u202efdp.exe": "invoicefdp.exe",
    "\u2066x\u2069\u200e.png": "x.png",
    "two  spaces .png ": "two spaces .png",
    "e\u0301.png": "\xe9.png",
    "👩\u200d🚀.png": "👩\u200d🚀.png",
    "half \ud83d.png": "half .png",
    "report.pdf. .": "report.pdf",
}


@pytest.mark.parametrize(("name", "clean"), NAMES.items())
def test_a_name_is_cleaned_of_paths_and_invisible_characters(name: str, clean: str) -> None:
    assert clean_filename(name) == clean


@pytest.mark.parametrize("name", ["x" * 300 + ".tar", "я" * 200 + ".pdf", "👍" * 90 + ".jpeg", "." + "y" * 400])
def test_a_long_name_is_cut_in_front_of_its_extension(name: str) -> None:
    clean = clean_filename(name)
    assert MAX_NAME_BYTES - 4 <= len(clean.encode()) <= MAX_NAME_BYTES
    assert extension_of(clean) == extension_of(name)


@given(st.text(max_size=400))
def test_a_clean_name_stays_as_it_is(name: str) -> None:
    clean = clean_filename(name)
    assert clean
    assert len(clean.encode()) <= MAX_NAME_BYTES
    assert not set(clean) & set('/\\\0\r\n\u202e"') - {'"'}
    assert clean_filename(clean) == clean


@pytest.mark.parametrize(
    ("name", "extension"),
    [("a.PNG", "png"), ("a.tar.gz", "gz"), ("a", ""), ("a.b c", ""), ("a.", ""), ("a." + "x" * 17, ""), ("a.я", "")],
)
def test_an_extension_is_short_and_in_lower_case(name: str, extension: str) -> None:
    assert extension_of(name) == extension
