#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Tests of bench_report.py."""

import contextlib
import io
import json
import os
import tempfile
import unittest
from html.parser import HTMLParser

import bench_report


def result(name, ns, multiple=None, **more):
    counters = {"ns_per_item": ns} | ({"x_floor": multiple} if multiple else {})
    return {"name": name, "run_type": "iteration"} | counters | more


class BenchReportTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def put(self, name, results, date="2026-11-28T10:00:00"):
        context = {"date": date, "num_cpus": 2, "mhz_per_cpu": 2850}
        with open(self.path(name), "w", encoding="utf-8") as out:
            json.dump({"context": context, "benchmarks": results}, out)
        return self.path(name)

    def get(self, name):
        with open(self.path(name), encoding="utf-8") as text:
            return text.read()

    def run_main(self, *argv):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertEqual(bench_report.main(list(argv)), 0)
        return out.getvalue()

    def test_the_table_has_floor_and_kvm_of_each_path(self):
        run = self.put("run.json", [result("BM_Fault/sequential", 10, 4)])
        kvm = self.path("kvm.tsv")
        with open(kvm, "w", encoding="utf-8") as out:
            out.write("# of one run\nBM_Fault/sequential\t100\n")
        self.assertIn("| BM_Fault/sequential | 10.0 | 2.50 | 4.00 | 100 | 0.10 | – |",
                      self.run_main(run, "--kvm", kvm))

    def test_floors_aggregates_and_results_without_items_are_no_paths(self):
        run = self.put("run.json", [result("BM_FloorWalk/hot", 2), result("BM_Fault", 9),
                                    result("BM_Fault_mean", 8, run_type="aggregate"),
                                    {"name": "BM_Other", "run_type": "iteration"}])
        rows = self.run_main(run).splitlines()[2:]
        self.assertEqual([row.split(" | ")[0] for row in rows], ["| BM_Fault"])

    def test_of_repetitions_the_fastest_counts_whatever_its_suffixes(self):
        found = bench_report.measured([result("BM_Fault/real_time", 9), result("BM_Fault", 7),
                                       result("BM_Fault/iterations:5", 8)])
        self.assertEqual(found, {"BM_Fault": (7, None)})

    def test_a_run_is_compared_with_the_latest_before_it(self):
        run = self.put("run.json", [result("BM_Fault", 11)])
        old = self.put("old.json", [result("BM_Fault", 40)], "2026-01-01T00:00:00")
        last = self.put("last.json", [result("BM_Fault", 10)], "2026-11-01T00:00:00")
        self.assertIn("| +10 % |", self.run_main(run, "--earlier", last, "--earlier", old))

    def test_a_merged_run_is_an_earlier_one_of_the_next(self):
        runs = [self.put("a.json", [result("BM_A", 1)]), self.put("b.json", [result("BM_B", 2)])]
        self.run_main(*runs, "--merged", self.path("merged.json"))
        text = self.run_main(*runs, "--earlier", self.path("merged.json"))
        self.assertEqual(text.count("+0 %"), 2)

    def test_the_page_stands_alone_and_has_a_picture_for_each_path(self):
        run = self.put("run.json", [result("BM_Fault", 10, 4), result("BM_Zap<1>", 20)])
        old = self.put("old.json", [result("BM_Fault", 12)], "2026-01-01T00:00:00")
        self.run_main(run, "--earlier", old, "--page", self.path("bench.html"))
        page = self.get("bench.html")
        tags = []

        class Tags(HTMLParser):
            def handle_starttag(self, tag, attrs):
                tags.append(tag)

        Tags().feed(page)
        self.assertEqual(tags.count("figure"), 2)
        self.assertEqual(tags.count("polyline"), 1)
        self.assertIn("Zap&lt;1&gt;", page)
        for foreign in ("http:", "https:", "src=", "<link", "<script"):
            self.assertNotIn(foreign, page)

    def test_docs_get_the_table_at_its_place_and_keep_the_rest(self):
        with open(self.path("page.md"), "w", encoding="utf-8") as out:
            out.write(f"before\n{bench_report.BEGIN}\nold\n{bench_report.END}\nafter\n")
        run = self.put("run.json", [result("BM_Fault", 10)])
        self.run_main(run, "--docs", self.path("page.md"))
        page = self.get("page.md")
        self.assertTrue(page.startswith("before\n") and page.endswith("\nafter\n"))
        self.assertIn("Of the run of 2026-11-28:", page)
        self.assertIn("| BM_Fault | 10.0 |", page)
        self.assertNotIn("old", page)

    def test_what_is_no_result_is_said_with_its_name(self):
        with open(self.path("bad.json"), "w", encoding="utf-8") as out:
            out.write("{}")
        with self.assertRaisesRegex(bench_report.ReportError, "bad.json"):
            bench_report.main([self.path("bad.json")])
        with self.assertRaisesRegex(bench_report.ReportError, "nothing to show"):
            bench_report.main([self.put("empty.json", [])])


if __name__ == "__main__":
    unittest.main()
