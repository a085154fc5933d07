"""Problems: one file per source."""
