"""External models: requests in their providers' words, answers in Databricks' words."""
