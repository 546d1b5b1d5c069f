"""The paper's tables and figures, measured: the runs they need, their results, and the pages.

    scales.py       every setting that --scale changes, in one table
    paper.json, paper.py        the paper's printed values; its tables, figures and defenses
    experiment.py   data set, scale, seeds and folder, and the file that keeps them
    graph.py, node.py           the runs as a graph of the stage scripts' commands
    plan.py, stability.py       the runs that a table, a figure or the sweep needs
    cost.py         an estimate of how long they take
    question.py     whether the files of a run are what its command would make today
    finished.py, now.py         whether files are complete; hashes and fingerprints of the present
    run.py, stale.py            running what is missing; setting stale files aside
    intervals.py    95 % intervals over seeds and images
    warned.py, provenance.py    warnings of the evaluations; dates, hardware and commits
    cells.py, tables.py, table_files.py     measured cells, a table as values, its files
    figures.py, figure_parts.py             the figures
    stability_table.py          the table and figure of the sweep
    zhu.py, zhu.json            the runs of Zhu et al. 2020 and what they print
    zhu_tables.py, zhu_figures.py           their tables and figures
    zhu_units.py, zhu_saliency.py, measured.py      single units, saliency maps, their files
    mi_values.py    MI of a network on adversarial images, for Figures 2 and 4
    report.py       one HTML page of everything
    demo.py         ./run demo

Importing this package does not import torch.
"""
