"""Judged runs told: one typed document (`documents`), written as HTML, Markdown, CSV and SVG.

results     everything computed of one run, once
sections/   tables with their columns
sentences, methods, figures   what stands beside them
chapter     one run; `report` all of them
browser, html, console   the forms
"""
