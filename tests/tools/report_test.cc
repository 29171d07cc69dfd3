// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The page of `tdp report` must stand alone, hold the runs as they are, and show them in a browser.

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tdp/tests/tools/run_program.h"
#include "tdp/tests/tools/trace_files.h"

namespace tdp::tools {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

ProgramResult Tdp(const std::string& arguments) { return RunProgram("tools/tdp " + arguments); }

std::string TraceOf(int pages, const std::string& name) {
  std::vector<TraceRecord> records;
  for (int i = 0; i < pages; ++i) {
    const Gva gva(0x400000 + uint64_t{0x1000} * i);
    records.push_back(TraceRecord::Make(gva, AccessKind::kFetch, 1));
    records.push_back(TraceRecord::Make(gva + 64, AccessKind::kStore, 3));
  }
  return "'" + WriteFile(name, Words(records)) + "'";
}

// Makes runs of each kind of paging with two seeds, as a sweep writes them.
std::string SweepFile() {
  const std::string path = WriteFile("sweep.json", "");
  EXPECT_EQ(Tdp(absl::StrCat("sweep --json='", path,
                             "' --paging native,ept,shadow,nested --ept-page 4k,2m --seed 1,2 ",
                             "--cost skylake ", TraceOf(60, "small.trc")))
                .status,
            0);
  return path;
}

// Returns what lies in `text` between two others.
std::string Between(const std::string& text, const std::string& begin, const std::string& end) {
  const size_t from = text.find(begin);
  if (from == std::string::npos) return "";
  const size_t start = from + begin.size();
  return text.substr(start, text.find(end, start) - start);
}

constexpr char kRunsBegin[] = "<script type=\"application/json\" id=\"runs\">";

TEST(TdpReport, HoldsTheRunsAsTheyAreAndNeedsNothingElse) {
  const std::string sweep = SweepFile();
  // This path would end the script it stands in.
  std::filesystem::create_directory(testing::TempDir() +
                                    "/TdpReport.HoldsTheRunsAsTheyAreAndNeedsNothingElse.<");
  const std::string one =
      WriteFile("one.json", Tdp("replay --json " + TraceOf(5, "</script><b>&.trc")).out);
  const std::string page = testing::TempDir() + "/page.html";
  ASSERT_EQ(Tdp(absl::StrCat("report '", sweep, "' '", one, "' -o '", page, "'")).status, 0);
  const std::string html = ReadWholeFile(page);
  const Json runs = Json::parse(Between(html, kRunsBegin, "</script>"));
  EXPECT_EQ(runs[0], Json::parse(ReadWholeFile(sweep)));
  EXPECT_EQ(runs[1], Json::parse(ReadWholeFile(one)));
  // Nothing is fetched: the one address is the name of the SVG format.
  const std::string rest = absl::StrReplaceAll(html, {{"http://www.w3.org/2000/svg", ""}});
  EXPECT_THAT(rest, Not(HasSubstr("http:")));
  EXPECT_THAT(rest, Not(HasSubstr("https:")));
  EXPECT_THAT(rest, Not(HasSubstr("<link")));
  EXPECT_THAT(rest, Not(HasSubstr(" src=")));
  // Standard output gets the same page.
  EXPECT_EQ(Tdp(absl::StrCat("report '", sweep, "' '", one, "'")).out, html);
}

TEST(TdpReport, RefusesWhatIsNoRunByFileAndPlace) {
  const auto expect = [](const std::string& arguments, const std::string& message) {
    const ProgramResult result = Tdp("report " + arguments);
    EXPECT_EQ(result.status, 2) << arguments;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  };
  const auto file = [](const std::string& text) { return "'" + WriteFile("bad.json", text) + "'"; };
  expect("", "needs a RUN.json");
  expect("/no/such/run", "/no/such/run");
  expect(file("{\n  \"schema\": tdp"), "bad.json:2:1");
  expect(file("{}"), "bad.json: not a run of tdp");
  expect(file("[]"), "bad.json: a sweep without a cell");
  expect(file("[{\"schema\": \"tdp-run\", \"schema_version\": 99}]"), "run 0: schema_version 99");
  expect(file("{\"schema\": \"tdp-run\", \"schema_version\": 1}"), "has no field command");
  const std::string good = WriteFile("good.json", Tdp("replay --json " + TraceOf(3, "t")).out);
  const std::string before = ReadWholeFile(good);
  expect(absl::StrCat("'", good, "' -o '", good, "'"), "it is one of the inputs");
  EXPECT_EQ(ReadWholeFile(good), before);
  expect(absl::StrCat("'", good, "' -o /no/such/folder/page.html"), "/no/such/folder");
  expect(absl::StrCat("'", good, "' -o /dev/full"), "/dev/full");
}

// A page of them would be empty, and would not say why.
TEST(TdpReport, AFieldOfAnotherTypeIsNamed) {
  const auto run =
      Json::parse(Tdp("replay --json --interval 5 --machine zen4 " + TraceOf(20, "typed")).out);
  const std::pair<const char*, const char*> kBroken[] = {
      {"/tlb", "tlb is 5, not "},
      {"/tlb/misses", "tlb.misses is 5.5, not "},
      {"/per_cpu", "per_cpu is 5, not "},
      {"/options/ram", "options.ram is 5, not "},
      {"/intervals/exits/0", "intervals.exits[0] is null, not "},
      {"/machine/stack/causes/1", "machine.stack.causes[1] is 5, not "},
      {"/walks/references/guest/level_1", "walks.references.guest.level_1 is \"5\", not "}};
  for (const auto& [place, message] : kBroken) {
    Json broken = run;
    const std::string said = message;
    const size_t is = said.find(" is ") + 4;
    broken[Json::json_pointer(place)] = Json::parse(said.substr(is, said.find(',', is) - is));
    const std::string file = WriteFile("typed.json", broken.dump());
    const ProgramResult result = Tdp("report '" + file + "'");
    EXPECT_EQ(result.status, 2) << place;
    EXPECT_EQ(result.out, "");
    // A message in which quotes are escaped.
    EXPECT_THAT(absl::StrReplaceAll(result.err, {{"\\\"", "\""}}),
                HasSubstr("typed.json: " + said));
  }
  // A field that an older tdp did not write yet may lack.
  Json older = run;
  older["options"].erase("roi");
  older["walks"].erase("assists");
  EXPECT_EQ(Tdp("report '" + WriteFile("older.json", older.dump()) + "'").status, 0);
}

TEST(TdpReport, ABenchmarksFileMayHaveAnyName) {
  const std::string file = testing::TempDir() + "/b\xe9nch.json";
  std::ofstream(file) << R"({"context": {}, "benchmarks": [{"name": "a", "cpu_time": 1}]})";
  EXPECT_EQ(Tdp("report '" + file + "'").status, 0);
}

constexpr char kBrowser[] =
    "chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage";

// Returns why there is no browser that opens pages, or nothing if there is one.
const std::string& WhyNoBrowser() {
  static const auto* const why = new std::string([] {
    if (std::system("command -v chromium >/dev/null") != 0) {
      return std::string("there is no chromium here; install Debian's package to run this test");
    }
    const ProgramResult blank = RunProgram(absl::StrCat(
        kBrowser, " --user-data-dir='", testing::TempDir(), "/blank' --dump-dom about:blank"));
    return blank.status == 0 ? std::string()
                             : absl::StrCat("chromium does not start here: ", blank.err);
  }());
  return *why;
}

// Replaces entities as a browser writes them into attributes.
std::string Unescaped(const std::string& text) {
  return absl::StrReplaceAll(text,
                             {{"&quot;", "\""}, {"&lt;", "<"}, {"&gt;", ">"}, {"&amp;", "&"}});
}

TEST(TdpReport, ABrowserShowsTheNumbersOfTheJson) {
  if (!WhyNoBrowser().empty()) GTEST_SKIP() << WhyNoBrowser();
  const std::string sweep = SweepFile();
  const std::string page = testing::TempDir() + "/shown.html";
  ASSERT_EQ(Tdp(absl::StrCat("report '", sweep, "' -o '", page, "'")).status, 0);
  const ProgramResult shown =
      RunProgram(absl::StrCat(kBrowser, " --user-data-dir='", testing::TempDir(),
                              "/profile' --dump-dom 'file://", page, "'"));
  ASSERT_EQ(shown.status, 0) << shown.err;
  // The last statement of the script sets this.
  ASSERT_THAT(shown.out, HasSubstr("data-ready=\"true\"")) << "the script did not come to its end";
  const Json runs = Json::parse(ReadWholeFile(sweep));
  size_t cells = 0;
  for (size_t at = shown.out.find("data-run=\""); at != std::string::npos;
       at = shown.out.find("data-run=\"", at + 1)) {
    const std::string cell = shown.out.substr(at, shown.out.find('>', at) - at);
    const size_t run = std::stoul(Between(cell, "data-run=\"", "\""));
    const std::string path = Between(cell, "data-path=\"", "\"");
    const Json::json_pointer pointer("/" + absl::StrReplaceAll(path, {{".", "/"}}));
    EXPECT_EQ(Json::parse(Unescaped(Between(cell, "data-value=\"", "\""))),
              runs.at(run).at(pointer))
        << path;
    ++cells;
  }
  // Each of the sixteen runs shows at least eleven figures.
  EXPECT_GE(cells, 11 * runs.size());
}

constexpr char kBenchmarks[] = R"({"context": {"date": "2026"}, "benchmarks": [
  {"name": "BM_A", "run_name": "BM_A", "run_type": "iteration", "cpu_time": 2, "time_unit": "us"},
  {"name": "BM_A", "run_name": "BM_A", "run_type": "iteration", "cpu_time": 4, "time_unit": "us"},
  {"name": "BM_A_mean", "run_name": "BM_A", "run_type": "aggregate", "cpu_time": 9},
  {"name": "BM_B", "cpu_time": 5, "time_unit": "ns"}]})";

TEST(TdpReport, FilesOfGoogleBenchmarkAreShownSideBySide) {
  const std::string first = WriteFile("first.json", kBenchmarks);
  const std::string second = WriteFile(
      "second.json", absl::StrReplaceAll(kBenchmarks, {{"\"cpu_time\": 5", "\"cpu_time\": 15"}}));
  const std::string page = testing::TempDir() + "/bench.html";
  ASSERT_EQ(Tdp(absl::StrCat("report '", first, "' '", second, "' -o '", page, "'")).status, 0);
  const std::string nameless =
      WriteFile("bad.json", R"({"context": {}, "benchmarks": [{"a": 1}]})");
  EXPECT_THAT(Tdp(absl::StrCat("report '", nameless, "' -o '", page, "x'")).err,
              HasSubstr("bad.json: benchmark 0: has no name or no cpu_time"));
  if (!WhyNoBrowser().empty()) GTEST_SKIP() << WhyNoBrowser();
  const ProgramResult shown =
      RunProgram(absl::StrCat(kBrowser, " --user-data-dir='", testing::TempDir(),
                              "/bench' --dump-dom 'file://", page, "'"));
  EXPECT_THAT(shown.out, AllOf(HasSubstr("data-ready=\"true\""), HasSubstr("Benchmarks"),
                               HasSubstr("× "), HasSubstr("BM_B")));
  EXPECT_THAT(shown.out, HasSubstr(">3,000<")) << "the mean of the two repetitions of BM_A";
  EXPECT_THAT(shown.out, HasSubstr(">15<"));
}

// Returns what a browser makes of the page with `script` at its end.
std::string Dom(const std::string& page, const std::string& script, const std::string& flags) {
  const std::string html = ReadWholeFile(page);
  const size_t end = html.rfind("</body>");
  EXPECT_NE(end, std::string::npos);
  const std::string tried = WriteFile(
      "tried.html",
      absl::StrCat(html.substr(0, end), "<script>", script, "</script>", html.substr(end)));
  const ProgramResult shown =
      RunProgram(absl::StrCat(kBrowser, " ", flags, " --user-data-dir='", testing::TempDir(),
                              "/keys' --dump-dom 'file://", tried, "'"));
  EXPECT_EQ(shown.status, 0) << shown.err;
  return shown.out;
}

TEST(TdpReport, TheAddressMapAndTheTimeStripAreUsedByKeyboard) {
  if (!WhyNoBrowser().empty()) GTEST_SKIP() << WhyNoBrowser();
  const std::string run =
      WriteFile("run.json", Tdp("replay --json --interval 100 --top-pages 3000 --machine zen4 "
                                "generate:stride,stride=4k,footprint=8m,accesses=6000")
                                .out);
  const std::string page = testing::TempDir() + "/keys.html";
  ASSERT_EQ(Tdp(absl::StrCat("report '", run, "' -o '", page, "'")).status, 0);
  const std::string dom = Dom(page, R"(
    const key = (name) => document.activeElement.dispatchEvent(
        new KeyboardEvent('keydown', {key: name, bubbles: true, cancelable: true}));
    const said = () => document.querySelector('p.said').textContent;
    const steps = [];
    const strips = document.querySelectorAll('svg.strip');
    strips[1].focus(); steps.push(said());
    key('ArrowRight'); steps.push(said());
    key('ArrowDown'); steps.push(said());
    key('End'); steps.push(said());
    document.body.dataset.steps = steps.join('; ');
    document.body.dataset.rows = strips.length;
    const sums = () => document.getElementById('range').textContent;
    const before = sums();
    const range = document.querySelector('input[type=range]');
    range.focus(); range.value = 30; range.dispatchEvent(new Event('input'));
    document.body.dataset.range = String(sums() !== before);
    const unreachable = [
      ...document.querySelectorAll('button, select, input, svg.strip, td.cell')
    ].filter((each) => each.tabIndex < 0);
    document.body.dataset.unreachable = unreachable.length;
  )",
                              "");
  EXPECT_THAT(dom, HasSubstr("data-ready=\"true\""));
  EXPECT_EQ(Between(dom, "data-rows=\"", "\""), "5") << "one of code, four of data";
  EXPECT_THAT(Between(dom, "data-steps=\"", "\""),
              AllOf(testing::StartsWith("0x10000000000: "), HasSubstr("; 0x10000001000: "),
                    HasSubstr("; 0x10000200000: "), HasSubstr("; 0x100003ff000: ")));
  EXPECT_EQ(Between(dom, "data-range=\"", "\""), "true");
  EXPECT_EQ(Between(dom, "data-unreachable=\"", "\""), "0");
}

TEST(TdpReport, ExitsArePricedByCause) {
  if (!WhyNoBrowser().empty()) GTEST_SKIP() << WhyNoBrowser();
  const std::string sweep = SweepFile();
  const std::string page = testing::TempDir() + "/prices.html";
  ASSERT_EQ(Tdp(absl::StrCat("report '", sweep, "' -o '", page, "'")).status, 0);
  const std::string dom = Dom(page, R"(
    const sum = (run) => EXIT_PRICES.reduce((all, cause) => all + exitsOf(run, cause), 0);
    document.body.dataset.uncounted = RUNS.filter((run) => sum(run) !== run.exits).length;
    const mode = [...document.querySelectorAll('select')].find(
        (each) => each.options[1]?.value === 'causes');
    const part = mode.closest('section');
    const ranges = () => part.querySelectorAll('input[type=range]');
    document.body.dataset.one = ranges().length;
    mode.value = 'causes'; mode.dispatchEvent(new Event('change'));
    document.body.dataset.causes = ranges().length;
    document.body.dataset.sources = [...part.querySelectorAll('label[title]')].length;
    const before = part.textContent;
    ranges()[0].value = 9000; ranges()[0].dispatchEvent(new Event('input'));
    document.body.dataset.moved = String(part.textContent !== before);
  )",
                              "");
  EXPECT_EQ(Between(dom, "data-uncounted=\"", "\""), "0") << "every exit has a cause with a price";
  EXPECT_EQ(Between(dom, "data-one=\"", "\""), "2") << "of any exit, and of a page fault";
  // The seven are EPT violations; fills, faults and writes of the shadow; two of the nested one;
  // page faults.
  EXPECT_EQ(Between(dom, "data-causes=\"", "\""), "7");
  EXPECT_EQ(Between(dom, "data-sources=\"", "\""), "6");
  EXPECT_EQ(Between(dom, "data-moved=\"", "\""), "true");
}

TEST(TdpReport, DarkAndLightFollowTheSystem) {
  if (!WhyNoBrowser().empty()) GTEST_SKIP() << WhyNoBrowser();
  const std::string run = WriteFile("run.json", Tdp("replay --json " + TraceOf(3, "t")).out);
  const std::string page = testing::TempDir() + "/dark.html";
  ASSERT_EQ(Tdp(absl::StrCat("report '", run, "' -o '", page, "'")).status, 0);
  const std::string script =
      "document.body.dataset.colour = getComputedStyle(document.body).backgroundColor;"
      "document.body.dataset.dark = matchMedia('(prefers-color-scheme: dark)').matches;";
  const std::string light = Dom(page, script, "--blink-settings=preferredColorScheme=1");
  const std::string dark = Dom(page, script, "--blink-settings=preferredColorScheme=0");
  EXPECT_EQ(Between(light, "data-dark=\"", "\""), "false");
  EXPECT_EQ(Between(light, "data-colour=\"", "\""), "rgb(255, 255, 255)");
  EXPECT_EQ(Between(dark, "data-dark=\"", "\""), "true");
  EXPECT_EQ(Between(dark, "data-colour=\"", "\""), "rgb(18, 22, 28)");
}

}  // namespace
}  // namespace tdp::tools
