"""Records as CSV, and back."""

from __future__ import annotations

import csv
import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lookup.exchange import csv_file
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import LookupRecord, Translation

RECORD = LookupRecord(
    Vsid(5001),
    CustomerAddress.parse("10.0.1.5"),
    MacAddress.parse("02:00:00:00:01:05"),
    ProviderAddress.parse("198.51.100.11"),
    "hv1",
    epoch=7,
    revision=1234,
)
HEADER = "vsid,ca,mac,pa,host,translation,epoch,revision\r\n"
GOOD = "5001,10.0.1.5,02:00:00:00:01:05,198.51.100.11,hv1,encap,7,1234\r\n"


def messages(text: str) -> list[str]:
    return [str(problem) for problem in csv_file.read(text).problems]


def test_a_record_is_one_line_behind_the_header() -> None:
    assert "".join(csv_file.lines([RECORD])) == HEADER + GOOD


def test_no_records_are_a_header() -> None:
    assert "".join(csv_file.lines([])) == HEADER


def test_a_rewritten_record_comes_back_as_it_went() -> None:
    rewritten = msgspec.structs.replace(RECORD, translation=Translation.REWRITE)
    (found,) = csv_file.read("".join(csv_file.lines([rewritten]))).given
    assert (found.pa, found.translation) == (rewritten.pa, Translation.REWRITE)


def test_a_record_at_a_named_host_may_leave_its_provider_address_to_the_service() -> None:
    (found,) = csv_file.read("vsid,ca,mac,pa,host\n5001,10.0.1.5,02:00:00:00:01:05,,hv1\n").given
    assert (found.pa, found.host) == (None, "hv1")


@pytest.mark.parametrize("start", [*"=+-@\t\r", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_no_spreadsheet_takes_a_hosts_name_for_a_formula(start: str) -> None:
    named = msgspec.structs.replace(RECORD, host=f'{start}HYPERLINK("http://x",1)')
    _, line = csv.reader(io.StringIO("".join(csv_file.lines([named])), newline=""))
    assert line[4][0] == "'"
    assert csv_file.read("".join(csv_file.lines([named]))).given[0].host == named.host.strip()


@given(st.text(min_size=1, max_size=30).filter(lambda text: text == text.strip() != ""))
def test_every_name_comes_back_as_it_went(host: str) -> None:
    text = "".join(csv_file.lines([msgspec.structs.replace(RECORD, host=host)]))
    reading = csv_file.read(text)
    assert (reading.problems, [each.host for each in reading.given]) == ([], [host])


@pytest.mark.parametrize(
    "text",
    [
        "ca,vsid,pa,mac\n10.0.1.5,5001,198.51.100.11,02-00-00-00-01-05\n",
        "vsid;ca;mac;pa;host\r\n5001;10.0.1.5;020000000105;198.51.100.11;hv1\r\n\r\n",
        "vsid\tca\tmac\tpa\n5001\t10.0.1.5\t02:00:00:00:01:05\t198.51.100.11",
        '\n"vsid","ca","mac","pa","translation"\n"5001","10.0.1.5","02:00:00:00:01:05","198.51.100.11","encap"',
        """#TYPE Microsoft.Management.Infrastructure.CimInstance
"CustomerAddress","VirtualSubnetID","MACAddress","ProviderAddress","Rule","Context"
"10.0.1.5","5001","020000000105","198.51.100.11","TranslationMethodEncap","=x"
""",
    ],
    ids=["order", "semicolons", "tabs", "quoted", "Export-Csv"],
)
def test_what_spreadsheets_and_windows_write_is_read(text: str) -> None:
    reading = csv_file.read(text)
    assert reading.problems == []
    (found,) = reading.given
    assert (found.vsid, found.ca, found.mac, found.pa) == (RECORD.vsid, RECORD.ca, RECORD.mac, RECORD.pa)


def test_everything_that_is_wrong_is_told_at_once_each_with_its_line() -> None:
    lines = (
        "4095,10.0.1.5,02:00:00:00:01:05,198.51.100.11,hv1,encap,,",
        "5001,10.0.1,02:00:00:00:01,198.51.100.11,hv1,encap,,",
        GOOD.strip(),
        "5001,10.0.1.5",
        ",10.0.1.5,02:00:00:00:01:05,,,translate,,",
    )
    assert messages(HEADER + "\n".join(lines)) == [
        "line 2: vsid: '4095' is no number from 4096 to 16777214",
        "line 3: ca: '10.0.1' is not an IP address",
        "line 3: mac: '02:00:00:00:01' is not a MAC address such as 02:00:00:00:01:05",
        "line 5: 8 cells are wanted, and 2 are here",
        "line 6: vsid is missing",
        "line 6: translation: 'translate' is not a valid Translation",
        "line 6: pa is missing",
    ]


def test_a_line_is_told_by_where_it_begins_whatever_is_quoted_before_it() -> None:
    text = 'vsid,ca,mac,pa,host\n5001,10.0.1.5,02:00:00:00:01:05,198.51.100.11,"a\nb"\n1,10.0.1.6,x,y,z\n'
    assert messages(text)[0].startswith("line 4: vsid")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: a header is wanted: vsid,ca,mac,pa,host,translation,epoch,revision"),
        ("vsid,ca,mac\n", "line 1: no column pa"),
        ("5001,10.0.1.5,02:00:00:00:01:05,198.51.100.11\n", "line 1: no column vsid, ca, mac, pa"),
        ("vsid,ca,mac,pa,pa\n", "line 1: a column is there twice"),
        ("vsid,ca,mac,pa,hots\n", "line 1: unknown column 'hots'"),
        (f'{HEADER}5001,"10.0.1.5\n', "line 2: this is not CSV: unexpected end of data"),
        (f"{HEADER}{'x' * 5000},,,,,,,\n", "line 2: a cell has more than 4096 characters"),
        ("\0\n", "line 1: "),
    ],
)
def test_what_is_no_file_of_records_is_said_to_be_none(text: str, told: str) -> None:
    (message,) = messages(text)
    assert message.startswith(told)


@given(st.text(alphabet="vsid,camp\n\r\";='5.:\0\x0b\u2028", max_size=200))
def test_any_text_is_read_or_has_problems(text: str) -> None:
    reading = csv_file.read(text)
    assert reading.given == [] or not reading.problems or all(each.message for each in reading.problems)
