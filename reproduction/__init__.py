"""The paper's tables and figures, measured: which runs they need, what came of them, and the pages that show it.

    scales.py     every setting that --scale changes, in one table
    plan.py       the runs as a graph of the stage scripts' commands
    cost.py       what they will take, estimated
    question.py   whether what is there answers today's question, and why not
    finished.py, now.py     whether files are whole; hashes and fingerprints of what is there now
    run.py        running what is missing
    paper.json    what the paper printed
    intervals.py  95 % intervals over seeds and images
    warned.py, provenance.py     warnings of the evaluations; dates, hardware and commits
    tables.py, figures.py, report.py     the results beside it

Importing this package does not import torch.
"""
