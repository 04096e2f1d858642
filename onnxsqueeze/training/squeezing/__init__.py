"""What is done to a module between two trainings: masks are chosen, zeros become noise, a teacher is added."""
