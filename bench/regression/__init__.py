"""Forgetting as a test: whether a change made any gated number worse, told apart from noise and from other machines.

numbers      what is compared of a cell, and which of it is gated        violations   promises that a cell broke
snapshot     the numbers of many cells: a store, or a baseline in git    baseline     `bless` writes one
decision     paired test, Holm, equivalence                              power        what the test can see
pilot        how numbers vary: seeds, round-off                          margins      what that means for a gate
comparison   two snapshots -> verdicts and an exit code                  advisory     verdicts of claims, timings
summary      for pull requests and dashboards                            history      one row a gate and revision
"""
