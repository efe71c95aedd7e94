"""Photos are judged and cleaned in processes of their own."""
