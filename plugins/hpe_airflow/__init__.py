"""What ties the pipeline to Airflow: runs from task contexts, connections, the trigger form, links, failures."""
