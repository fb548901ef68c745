"""Pages of Airflow's API server about models: all versions, one, two beside each other, and what is done to them."""
