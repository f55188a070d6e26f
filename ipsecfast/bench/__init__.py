"""What the product measures about itself: `ipsecfast bench`.

results    figures with every sample of them, verdicts, and the JSON file that holds a report
runner     variants measured one after the other, round by round, within a time
command    what the commands share: options, and what is done with a report
machine    what figures depend on
table      a report as a table for a terminal or for a document; picture draws it; compare holds it against an older one

Each benchmark is a module that yields readings: stages, memory, tunnel, scale.
"""
