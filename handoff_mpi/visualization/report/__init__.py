"""``report.html``: what happened in a run, as one page that needs no network.

Python gathers and aggregates, so that the page stays small for every run. :mod:`.axis` places launches and
slots, :mod:`.calls_figure`, :mod:`.use_figure`, :mod:`.dag_figure` and :mod:`.tables` make what is drawn and listed,
and :mod:`.page` puts it into the template. The page draws with plotly.js, and filters without asking the network.
"""
