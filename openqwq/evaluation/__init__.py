"""What we measure: benchmarks, runs, statistics, scorecards and the reports of runs."""
