"""What a report shows of itself, where it is shown, and what it does without the libraries that draw it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lc_service.accounting.report import make_table
from lc_service.accounting.report.frame import make_frame
from lc_service.accounting.report.page import html_fragment, html_report
from lc_service.accounting.report.table import text_of
from lc_service.accounting.usage_line import LineKey, UsageLine
from lc_service.accounting.usage_report import UsageReport

Lines = dict[LineKey, UsageLine]


@pytest.mark.usefixtures("fake_clock")
def test_each_view_is_made_of_the_reports_lines(partial_lines: Lines) -> None:
    report = UsageReport(partial_lines)
    assert str(report) == text_of(make_table(partial_lines))
    assert report._repr_html_() == html_fragment(partial_lines)
    assert report.to_html(["model", "day"], "T") == html_report(partial_lines, ["model", "day"], "T")
    assert report.to_html("day") == html_report(partial_lines, ["day"])
    assert report.to_pandas().equals(make_frame(partial_lines))
    assert report.plot().axes[0].get_title(loc="left") == "Known cost per minute"


def test_a_wrong_key_is_a_value_error(lines: Lines) -> None:
    with pytest.raises(ValueError, match="not by 'colour'"):
        UsageReport(lines).to_html(["model", "colour"])


def test_a_terminal_shows_the_table_and_a_log_one_line(lines: Lines) -> None:
    from IPython.lib.pretty import pretty

    report = UsageReport(lines)
    assert pretty(report) == str(report)
    assert "\n" not in repr(report)


def test_text_of_an_empty_report_is_its_total() -> None:
    assert str(UsageReport()).splitlines()[-1].split() == ["Total", "0", "0", "0", "0", "$0"]


@pytest.mark.parametrize(("view", "module"), [("plot", "matplotlib"), ("to_pandas", "pandas")])
def test_without_the_library_the_error_says_what_to_install(
    view: str, module: str, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "lc_service.accounting.report.plot", raising=False)
    with pytest.raises(ImportError, match=rf"pip install {module}, or lc-service\[notebook\]"):
        getattr(UsageReport(lines), view)()


def test_reports_are_imported_without_what_they_are_drawn_with() -> None:
    code = (
        "import sys, lc_service.accounting.usage_report\n"
        "print({'matplotlib', 'pandas', 'IPython', 'sqlalchemy', 'genai_prices'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603  ours
    assert done.stdout.strip() == "set()"


def test_a_plot_imports_no_pyplot() -> None:
    code = (
        "import sys\nfrom lc_service.accounting.usage_report import UsageReport\n"
        "UsageReport().plot()._repr_png_()\nprint('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603  ours
    assert done.stdout.strip() == "False"
