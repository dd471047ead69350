"""Where artifacts and data can lie: one module for each URI scheme."""
